package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/berthdev/berth/api/v1alpha1"
)

// notes say which delegates may have something for which interface: written before a delegate is asked for an address, dropped once
// it has taken it back. They find what a delegate gave to a plugin that was killed before it could tell, or to a pod whose lease the
// controller has freed, or of a pool that is gone by force. One file an interface, in a directory that outlives a reboot, as the
// delegates' own state does.
type notes struct {
	dir string
	mu  sync.Mutex
}

// note of one interface of a sandbox.
type note struct {
	Holder    v1alpha1.LeaseHolder `json:"holder"`
	Delegates []delegation         `json:"delegates"`
}

// delegation is what is needed to run a pool's plugin.
type delegation struct {
	Pool   string          `json:"pool"`
	Type   string          `json:"type"`
	Config json.RawMessage `json:"config,omitempty"`
}

// put a delegation into the note of an interface; known says that it was there before.
func (n *notes) put(h v1alpha1.LeaseHolder, d delegation) (known bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	at, err := n.of(h.ContainerID, h.Interface)
	if err != nil || slices.ContainsFunc(at.Delegates, func(o delegation) bool { return o.Pool == d.Pool }) {
		return err == nil, err
	}
	at.Holder, at.Delegates = h, append(at.Delegates, d)
	return false, n.write(at)
}

// drop the delegations of pools that have taken everything back.
func (n *notes) drop(containerID, ifName string, pools []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	at, err := n.of(containerID, ifName)
	if err != nil || len(at.Delegates) == 0 {
		return err
	}
	at.Delegates = slices.DeleteFunc(at.Delegates, func(d delegation) bool { return slices.Contains(pools, d.Pool) })
	if len(at.Delegates) > 0 {
		return n.write(at)
	}
	return os.Remove(n.file(containerID, ifName))
}

// of an interface; the zero note if there is none.
func (n *notes) of(containerID, ifName string) (note, error) {
	return n.read(n.file(containerID, ifName))
}

// all notes.
func (n *notes) all() ([]note, error) {
	entries, err := os.ReadDir(n.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []note
	var errs []error
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".json" {
			continue
		}
		at, err := n.read(filepath.Join(n.dir, e.Name()))
		if err != nil {
			errs = append(errs, err)
		} else if len(at.Delegates) > 0 {
			out = append(out, at)
		}
	}
	return out, errors.Join(append(errs, err)...)
}

// file of an interface. The CNI library has seen to it that neither name has a slash; here it is seen to once more.
func (n *notes) file(containerID, ifName string) string {
	clean := strings.NewReplacer("/", "%2F", "%", "%25")
	return filepath.Join(n.dir, clean.Replace(containerID)+"@"+clean.Replace(ifName)+".json")
}

func (n *notes) read(file string) (note, error) {
	var at note
	data, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return at, nil
	case err != nil:
		return at, fmt.Errorf("note of delegates: %w", err)
	}
	if err := json.Unmarshal(data, &at); err != nil {
		return at, fmt.Errorf("note of delegates: %s: %w; remove the file", file, err)
	}
	return at, nil
}

// write so that after a crash the file is there as a whole or as it was.
func (n *notes) write(at note) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("note of delegates: %w", err)
		}
	}()
	data, err := json.Marshal(at)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return err
	}
	file := n.file(at.Holder.ContainerID, at.Holder.Interface)
	f, err := os.CreateTemp(n.dir, "new-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(n.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
