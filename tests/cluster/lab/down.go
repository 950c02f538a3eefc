package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/berthdev/berth/tests/cluster/fabric"
)

// Down removes the lab, whatever is left of it.
func (l *Lab) Down() error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	_, statErr := os.Stat(l.state())
	// A state that cannot be read must not keep the rest: names follow from the
	// lab's name alone.
	if err := l.load(); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			l.Say("%v", err)
		}
		if err := l.plan(); err != nil {
			return err
		}
	}
	if errors.Is(statErr, fs.ErrNotExist) {
		// Without state here, namespaces of that name are another directory's.
		if fabric.Present(l.topo) {
			return fmt.Errorf("lab %q: nothing in %s, but its namespaces exist: they belong to a lab in another --dir", l.Name, l.state())
		}
		l.Say("lab %q is not up", l.Name)
		return nil
	}
	// Nodes end with their holders: the kernel kills a process namespace whole.
	if err := l.table.KillAll(); err != nil {
		return err
	}
	var errs []error
	errs = append(errs, fabric.Down(l.topo))
	for _, n := range l.nodes() {
		errs = append(errs, removeCgroups(n.Containers()))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("lab %q: %w", l.Name, err)
	}
	if err := os.RemoveAll(l.state()); err != nil {
		return fmt.Errorf("lab %q: %w", l.Name, err)
	}
	l.Say("lab %q is down", l.Name)
	return nil
}
