package proc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseStat(t *testing.T) {
	tail := " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 424242 20 21"
	for _, tt := range []struct {
		in    string
		start uint64
		fails bool
	}{
		{in: "12 (etcd)" + tail, start: 424242},
		{in: "12 (a (b) c)" + tail, start: 424242},
		{in: "12 (etcd) S 1 2", fails: true},
		{in: "", fails: true},
	} {
		got, err := parseStat(tt.in)
		if (err != nil) != tt.fails || got.start != tt.start {
			t.Errorf("parseStat(%q) = %+v, %v", tt.in, got, err)
		}
	}
}

func TestTable(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "processes.json")
	table, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := table.Start("sleeper", filepath.Join(dir, "sleeper.log"), []string{"sh", "-c", "echo hello; exec sleep 1000"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Alive() {
		t.Fatal("a process just started is not alive")
	}

	// What another command sees.
	again, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	q, ok := again.Lookup("sleeper")
	if !ok || q != p {
		t.Fatalf("recorded %+v, read %+v", p, q)
	}
	other := q
	other.Start++
	if other.Alive() {
		t.Error("a process with the same pid and another start time is taken for ours")
	}
	if r, err := again.Start("other", filepath.Join(dir, "other.log"), []string{"sleep", "1000"}, nil); err != nil || !r.Alive() {
		t.Fatal(r, err)
	}
	if err := again.Kill("sleeper"); err != nil || p.Alive() {
		t.Errorf("alive %v after Kill: %v", p.Alive(), err)
	}
	if err := again.Kill("sleeper"); err == nil {
		t.Error("killed twice")
	}
	again, err = Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := again.Lookup("sleeper"); ok || len(again.All()) != 1 {
		t.Errorf("after Kill the table has %v", again.All())
	}
	p = again.All()[0]
	if err := again.KillAll(); err != nil {
		t.Fatal(err)
	}
	if p.Alive() {
		t.Error("alive after KillAll")
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the table is still there: %v", err)
	}
	if err := again.KillAll(); err != nil {
		t.Errorf("KillAll of nothing: %v", err)
	}
}

// A process that ended by itself and was started again is one, not two.
func TestStartAgain(t *testing.T) {
	dir := t.TempDir()
	table, err := Open(filepath.Join(dir, "processes.json"))
	if err != nil {
		t.Fatal(err)
	}
	ended, err := table.Start("part", filepath.Join(dir, "part.log"), []string{"true"}, nil)
	if err == nil {
		err = ended.waitEnd()
	}
	if err != nil {
		t.Fatal(err)
	}
	p, err := table.Start("part", filepath.Join(dir, "part.log"), []string{"sleep", "1000"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = table.KillAll() }()
	if err := table.Kill("part"); err != nil || p.Alive() {
		t.Errorf("alive %v after Kill: %v", p.Alive(), err)
	}
	if all := table.All(); len(all) != 0 {
		t.Errorf("after Kill the table has %v", all)
	}
}

func TestOpenDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "processes.json")
	if err := os.WriteFile(path, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want an error that names %s", err, path)
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("1\n2\n3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]string{1: "3", 2: "2\n3", 9: "1\n2\n3"} {
		if got := Tail(path, n); got != want {
			t.Errorf("Tail(%d) = %q, want %q", n, got, want)
		}
	}
}
