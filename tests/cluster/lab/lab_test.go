package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func quiet(string, ...any) {}

func TestCommandsNeedALab(t *testing.T) {
	l, err := New(t.TempDir(), "berth", quiet)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.EnterCommand("node-a"); err == nil || !strings.Contains(err.Error(), "lab up") {
		t.Errorf("exec without a lab: %v; want a hint at lab up", err)
	}
	if err := l.Load("x.tar"); err == nil || !strings.Contains(err.Error(), "lab up") {
		t.Errorf("load without a lab: %v; want a hint at lab up", err)
	}
}

func TestNewChecksName(t *testing.T) {
	if _, err := New(t.TempDir(), "Not A Name", quiet); err == nil {
		t.Error("no error")
	}
}

func TestLock(t *testing.T) {
	l, err := New(t.TempDir(), "berth", quiet)
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := l.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.lock(); err == nil {
		t.Error("locked twice")
	}
	unlock()
	if unlock, err = l.lock(); err != nil {
		t.Errorf("after unlock: %v", err)
	} else {
		unlock()
	}
}

func TestRemoveTree(t *testing.T) {
	root := filepath.Join(t.TempDir(), "cgroup")
	if err := os.MkdirAll(filepath.Join(root, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(root); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(root); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
	if err := removeTree(root); err != nil {
		t.Errorf("of what is not there: %v", err)
	}
}

func TestFreePortsDiffer(t *testing.T) {
	a, err := freePorts()
	if err != nil {
		t.Fatal(err)
	}
	if a.API == a.Etcd || a.Etcd == a.Peer || a.API == a.Peer {
		t.Errorf("%+v", a)
	}
}
