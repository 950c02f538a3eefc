package agent

import (
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
)

// returned says how far the delegates of one interface are with taking back what they gave.
type returned struct {
	runs   toRun            // still to be run
	failed map[string]error // by pool
	done   []string         // pools
}

// errs of the delegates that failed.
func (r returned) errs() error {
	var errs []error
	for _, err := range r.failed {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// giveBack to the delegates what they may have given to an interface of a sandbox, whose leases are held: by its note, and by the
// pools of the leases should that be lost. First back to the delegate, then the lease is freed: what is recorded nowhere is not found
// again. foreign: the sandbox is not the request's.
func (a *Agent) giveBack(req *delegate.Request, containerID, ifName string, foreign bool, held []*v1alpha1.IPLease) (returned, error) {
	out := returned{failed: map[string]error{}}
	at, err := a.notes.of(containerID, ifName)
	if err != nil {
		return out, err
	}
	delegates := at.Delegates
	for _, l := range held {
		p := a.pools.named(l.Spec.Pool)
		if p != nil && p.Delegate != nil && !slices.ContainsFunc(delegates, func(d delegation) bool { return d.Pool == p.Name }) {
			delegates = append(delegates, delegationOf(p))
		}
	}
	for _, d := range delegates {
		run, err := d.run("DEL", req)
		if err != nil {
			return out, err
		}
		if foreign {
			run.ContainerID, run.IfName = containerID, ifName
		}
		gave := slices.ContainsFunc(held, func(l *v1alpha1.IPLease) bool { return l.Spec.Pool == d.Pool })
		switch ran := find(req.Ran, run); {
		case ran == nil:
			out.runs = append(out.runs, run)
		case ran.Error == nil, ran.Absent && !gave: // else a pod whose pool names a plugin that is nowhere would never go away
			out.done = append(out.done, d.Pool)
		default:
			out.failed[d.Pool] = delegateError{d.Pool, d.Type, ran.Error}
		}
	}
	return out, nil
}

// find the outcome of a run; nil: it was not run.
func find(ran []delegate.Ran, run delegate.Run) *delegate.Ran {
	for i := range ran {
		r := &ran[i]
		if r.Pool == run.Pool && r.Command == run.Command && r.ContainerID == run.ContainerID && r.IfName == run.IfName {
			return r
		}
	}
	return nil
}

// endReturn surrenders the leases of an interface but those whose delegates failed, has tell tell the API, and drops the note of those
// that did not.
func (a *Agent) endReturn(c call, containerID, ifName string, back returned, held []*v1alpha1.IPLease, tell func(surrendered) error) error {
	free := slices.DeleteFunc(slices.Clone(held), func(l *v1alpha1.IPLease) bool { return back.failed[l.Spec.Pool] != nil })
	g, err := a.surrender(c, sandbox{containerID, ifName}, free, a.store.Release)
	if err == nil {
		err = tell(g)
	}
	if err != nil {
		return err
	}
	return errors.Join(back.errs(), a.notes.drop(containerID, ifName, back.done))
}

// checkDelegates has the delegates whose addresses an interface holds check it.
func (a *Agent) checkDelegates(c call, held []*v1alpha1.IPLease) error {
	var runs toRun
	for _, l := range held {
		p := a.pools.named(l.Spec.Pool)
		if p == nil || p.Delegate == nil || slices.ContainsFunc(runs, func(r delegate.Run) bool { return r.Pool == p.Name }) {
			continue
		}
		d := delegationOf(p)
		run, err := d.run("CHECK", c.Request)
		if err != nil {
			return err
		}
		switch ran := find(c.Ran, run); {
		case ran == nil:
			runs = append(runs, run)
		case ran.Error != nil && !unknown(ran.Error):
			return delegateError{d.Pool, d.Type, ran.Error}
		}
	}
	if len(runs) > 0 {
		return runs
	}
	return nil
}

// unknown says whether a delegate does not know the verb, or not in this version of the configuration: then it has no say.
func unknown(e *delegate.Error) bool {
	return e.Code == types.ErrIncompatibleCNIVersion || e.Code == types.ErrInvalidEnvironmentVariables
}

// statusOf is good if some pool of the network may serve an ADD, however few addresses it has: as default network, an exhausted pool
// would take the node out of service. Pods that name other pools are not spoken of.
func (a *Agent) statusOf(c call) error {
	if len(c.Config) == 0 {
		return nil // asks for the agent alone
	}
	conf, err := delegate.ParseConfig(c.Config)
	if err != nil {
		return err
	}
	pools := ipam.ServingNode(a.pools.all(), slices.Concat(conf.IPAM.Pools, conf.IPAM.IPv4, conf.IPAM.IPv6), a.pods.thisNode().Labels)
	var runs toRun
	var errs []error
	for _, p := range pools {
		if p.Delegate == nil {
			return nil
		}
		d := delegationOf(p)
		run, err := d.run("STATUS", c.Request)
		if err != nil {
			return err
		}
		switch ran := find(c.Ran, run); {
		case ran == nil:
			runs = append(runs, run)
		case ran.Error == nil || unknown(ran.Error):
			return nil
		default:
			errs = append(errs, delegateError{d.Pool, d.Type, ran.Error})
		}
	}
	switch {
	case len(runs) > 0:
		return runs
	case len(errs) > 0:
		return fmt.Errorf("no pool of the network can serve: %w", errors.Join(errs...))
	}
	return nil
}
