//go:build linux

package links

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// record is what is kept on disk. It is written before a change, and when the change has ended.
type record struct {
	Boot   string             // of the node; what was done in another is gone
	Change *change            `json:",omitempty"`
	Failed map[string]failure // by HostNetwork
	Proven map[string]string  // by HostNetwork: the version of its spec with which the API server was reached
	// Applied, by HostNetwork, is what was last as wanted: it is kept while a new version waits for its turn.
	Applied map[string]Want
}

// change that is under way.
type change struct {
	Owner, Spec string
	Ops         []string // for people
	Before      snapshot
}

// failure of a version of a HostNetwork's spec, which is not tried again.
type failure struct{ Spec, Message string }

func readRecord(file string) (record, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return record{}, err
	}
	now := strings.TrimSpace(string(boot))
	empty := record{Boot: now, Failed: map[string]failure{}, Proven: map[string]string{}, Applied: map[string]Want{}}
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return empty, err
	}
	r := record{}
	if err := json.Unmarshal(data, &r); err != nil || r.Failed == nil || r.Proven == nil {
		return empty, fmt.Errorf("%s is not what this agent writes: %w", file, errors.Join(err, os.Rename(file, file+".corrupt")))
	}
	if r.Applied == nil { // of an agent that knew no turns
		r.Applied = map[string]Want{}
	}
	if r.Boot == now {
		return r, nil
	}
	if c := r.Change; c != nil {
		r.Failed[c.Owner] = failure{c.Spec, "the node restarted before it was known that the API server is reached with this change; it was not made again"}
	}
	r.Boot, r.Change, r.Proven = now, nil, map[string]string{}
	return r, nil
}

// write the record, so that it outlives a loss of power.
func (r record) write(file string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	next, err := os.OpenFile(file+".next", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = next.Write(data)
	if err := errors.Join(err, next.Sync(), next.Close()); err != nil {
		return err
	}
	if err := os.Rename(file+".next", file); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
