package fabric

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/berthdev/berth/tests/cluster/topology"
)

// A lab whose machine was stopped leaves namespaces without a process: only then may another take its name.
func TestDead(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes network namespaces: needs root")
	}
	name := fmt.Sprintf("t%d", os.Getpid()%1e9)
	unlock, err := Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	slot, err := FreeSlot(name)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := topology.New(name, slot)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Down(plan); err != nil {
			t.Error(err)
		}
		if Present(plan) {
			t.Error("Down has left something")
		}
	})
	if err := Up(plan); err != nil {
		t.Fatal(err)
	}
	if !Present(plan) || !Dead(plan) {
		t.Fatalf("present %v, dead %v; want both of namespaces without a process", Present(plan), Dead(plan))
	}
	cmd := exec.Command("ip", "netns", "exec", plan.Namespaces()[1], "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait() //nolint:errcheck // killed below
	for i := 0; Dead(plan) && i < 1000; i++ {
	}
	if Dead(plan) {
		t.Error("dead, with a process in one of its namespaces")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
}
