package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// trace of all that is written of Berth's kinds, from etcd itself (its watch, as its gRPC gateway serves it over HTTP): in one order, and
// without the gaps that a watch of the API server has where that one ends.
type trace struct {
	*world
	deeds *deeds
	seen  atomic.Int64 // revision
}

// registry is where the API server keeps them.
const registry = "/registry/berth.dev/"

// run until ctx ends.
func (t *trace) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := t.watch(ctx); errors.Is(err, errBroken) {
			t.history.violate(Event{Kind: Fault}, err.Error())
			return
		}
		pause(ctx, 50*time.Millisecond) // etcd is away, or the run ends
	}
}

// errBroken: etcd has forgotten what was not seen yet, or says what is not understood.
var errBroken = errors.New("the trace is broken")

func (t *trace) watch(ctx context.Context) error {
	url, err := t.etcd()
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{"create_request": map[string]any{
		"key": []byte(registry), "range_end": []byte(strings.TrimSuffix(registry, "/") + "0"), "start_revision": t.seen.Load() + 1}})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v3/watch", bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for in := json.NewDecoder(resp.Body); ; {
		var answer struct {
			Result struct {
				Canceled bool
				Events   []written
			}
		}
		if err := in.Decode(&answer); err != nil {
			return err
		}
		if answer.Result.Canceled {
			return fmt.Errorf("%w: etcd has ended the watch from revision %d", errBroken, t.seen.Load()+1)
		}
		for _, e := range answer.Result.Events {
			if err := t.see(e); err != nil {
				return fmt.Errorf("%w: %s: %w", errBroken, e.KV.Key, err)
			}
			t.seen.Store(e.KV.Revision)
		}
	}
}

// etcd's address, which is another after each start of the lab, but not of etcd.
func (t *trace) etcd() (string, error) {
	text, err := os.ReadFile(filepath.Join(t.labDir, "run", labName+"-apiserver", "apiserver.json"))
	if err != nil {
		return "", err
	}
	var ports struct{ Etcd int }
	err = json.Unmarshal(text, &ports)
	return fmt.Sprintf("http://127.0.0.1:%d", ports.Etcd), err
}

// written to etcd (mvccpb.Event).
type written struct {
	Type string // DELETE or none
	KV   struct {
		Key, Value []byte
		Revision   int64 `json:"mod_revision,string"`
	}
}

// see what was written.
func (t *trace) see(w written) error {
	kind, name, _ := strings.Cut(strings.TrimPrefix(string(w.KV.Key), registry), "/")
	read := func(o any) error {
		if w.Type == "DELETE" {
			return nil
		}
		return json.Unmarshal(w.KV.Value, o)
	}
	e := Event{Note: fmt.Sprintf("%s@%d", name, w.KV.Revision)}
	var wrong []string
	switch kind {
	case "ipblocks":
		b := &v1alpha1.IPBlock{}
		if err := read(b); err != nil {
			return err
		}
		of, first, err := ipam.ParseLeaseName(name)
		if err != nil {
			return err
		}
		b.Name, b.Spec.Network, b.Spec.First = name, of, first.String()
		var changed map[netip.Addr]deed
		changed, wrong = t.deeds.block(b)
		e.Kind, e.Leases = Owned, leaseNames(slices.Collect(maps.Keys(changed)))
		for _, p := range b.Spec.Parts {
			e.Note += fmt.Sprintf(" %s %s", p.IPs, p.Pool)
			if p.ReturnedAt != nil {
				e.Note += " returning"
			}
		}
	case "ippools":
		p := &v1alpha1.IPPool{}
		if err := read(p); err != nil {
			return err
		}
		p.Name = name
		if p.Spec.Subnet == "" && w.Type != "DELETE" {
			return nil
		}
		var changed []netip.Addr
		changed, wrong = t.deeds.pool(p)
		e.Kind, e.Leases = Lists, leaseNames(changed)
		for _, s := range p.Spec.Subnets {
			e.Note += " " + strings.Join(s.IPs, " ")
		}
	case "ipleases":
		l := &v1alpha1.IPLease{}
		if err := read(l); err != nil {
			return err
		}
		_, a, err := ipam.ParseLeaseName(name)
		if err != nil {
			return err
		}
		if l.Spec.Address = a.String(); w.Type == "DELETE" {
			l.Spec.Phase = v1alpha1.LeaseReleased
		}
		wrong = t.deeds.lease(l)
		if l.Spec.Phase == v1alpha1.LeaseBound && strings.HasPrefix(l.Spec.Pool, carvedPrefix[:len(carvedPrefix)-1]) {
			t.history.count("lease of a carved pool")
		}
		e.Kind, e.Leases, e.Note = Object, []string{name}, fmt.Sprintf("%s %s of pool %s", e.Note, l.Spec.Phase, l.Spec.Pool)
	default:
		return nil
	}
	if e.Kind != Object && len(e.Leases) > 0 {
		t.history.add(e)
	}
	for _, text := range wrong {
		t.history.violate(e, text)
	}
	return nil
}

func leaseNames(addrs []netip.Addr) (out []string) {
	for _, a := range addrs {
		out = append(out, lease4(a))
	}
	slices.Sort(out)
	return out
}

// through waits until all is seen that is there by now.
func (t *trace) through(ctx context.Context) error {
	for ctx.Err() == nil {
		newest, err := t.newest(ctx)
		if err == nil && t.seen.Load() >= newest {
			return nil
		}
		pause(ctx, 100*time.Millisecond)
	}
	return ctx.Err()
}

// newest version of all objects that the trace shows.
func (t *trace) newest(ctx context.Context) (newest int64, err error) {
	see := func(o runtime.Object) error {
		m, err := meta.Accessor(o)
		if err != nil {
			return err
		}
		version, err := strconv.ParseInt(m.GetResourceVersion(), 10, 64)
		newest = max(newest, version)
		return err
	}
	pools, err1 := t.pools.List(ctx, metav1.ListOptions{})
	blocks, err2 := t.blocks.List(ctx, metav1.ListOptions{})
	leases, err3 := t.leases.List(ctx, metav1.ListOptions{})
	if err := errors.Join(err1, err2, err3); err != nil {
		return 0, err
	}
	for _, l := range []runtime.Object{pools, blocks, leases} {
		if err := meta.EachListItem(l, see); err != nil {
			return 0, err
		}
	}
	return newest, nil
}
