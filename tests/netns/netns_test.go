//go:build linux

package netns

import (
	"os"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

func TestDo(t *testing.T) {
	here := current(t)
	a, b := New(t), New(t)
	a.Do(func() {
		inA := current(t)
		if inA == here {
			t.Error("Do did not leave the test's namespace")
		}
		if diff := cmp.Diff([]string{"lo"}, names(t)); diff != "" {
			t.Errorf("links of a new namespace (-want +got):\n%s", diff)
		}
		b.Do(func() {
			if got := current(t); got == inA || got == here {
				t.Error("nested Do did not enter the second namespace")
			}
		})
		if got := current(t); got != inA {
			t.Errorf("nested Do came back to %s, want %s", got, inA)
		}
	})
	if got := current(t); got != here {
		t.Errorf("Do came back to %s, want %s", got, here)
	}
}

func TestDoComesBackFromFatal(t *testing.T) {
	here := current(t)
	ns, done := New(t), make(chan string)
	go func() {
		defer func() { done <- current(t) }()
		ns.Do(runtime.Goexit) // as t.Fatal does
	}()
	if got := <-done; got != here {
		t.Errorf("after an unwound Do: in %s, want %s", got, here)
	}
}

func current(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func names(t *testing.T) []string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range links {
		out = append(out, l.Attrs().Name)
	}
	return out
}
