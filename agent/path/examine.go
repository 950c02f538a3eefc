//go:build linux

package path

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/berthdev/berth/agent/report"
	"github.com/berthdev/berth/bpf"
)

// Names of the checks of Examine.
const (
	checkLink       = "link"
	checkProgram    = "program"
	checkEndpoints  = "endpoints"
	checkNeighbours = "neighbours"
	checkRoutes     = "routes"
	checkGroups     = "groups"
	checkPrefixes   = "prefixes"
	checkSysctls    = "sysctls"
	checkTable      = "table"
	checkForward    = "forward"
)

// mended is the remedy for what an agent that runs sets right by itself.
const mended = "the agent sets this right within half a minute; if it stays, the agent's log says why, and a restart of the agent does no harm"

// scene is the node as it is when it is looked at. Nothing is changed.
type scene struct {
	*kernel
	cfg      Config
	want     *Wanted   // nil if nobody knows
	desired  endpoints // of want, else what the programs know
	complete bool      // what is not desired is not wanted
	own      []ownAddress
	strays   []netlink.Addr
	vmacs    map[string]*sight // by parent
}

// sight is one parent with its vmac.
type sight struct {
	*vmac
	parentLink netlink.Link // nil if there is none
	link       netlink.Link // nil if there is none, or one that is not ours
	view       *bpf.View    // nil with viewErr
	viewErr    error
}

// Examine compares what an agent wants with what there is, and says where they differ. It changes nothing, and works in the network
// namespace of its process. Without want it compares what the node has with itself. The error is of what could not be read.
func Examine(cfg Config, want *Wanted) ([]report.Finding, error) {
	s, err := survey(cfg, want)
	if err != nil {
		return nil, err
	}
	defer s.close()
	var out []report.Finding
	var errs []error
	note := func(found []report.Finding, err error) {
		out = append(out, found...)
		errs = append(errs, err)
	}
	for _, parent := range slices.Sorted(maps.Keys(s.vmacs)) {
		v := s.vmacs[parent]
		note(s.examineLink(v), nil)
		if v.link == nil {
			continue
		}
		note(s.examineProgram(v), nil)
		note(s.examineMaps(v))
		note(s.examineAddresses(v))
		note(s.examineSysctls(vmacSettings(v.name), "of "+v.name))
	}
	note(s.examineSysctls(s.forwarding(), "of the node"))
	note(s.examineOwnerRoutes())
	note(s.examineTable())
	note(s.examineForward())
	return out, errors.Join(errs...)
}

func survey(cfg Config, want *Wanted) (_ *scene, err error) {
	k, err := openKernel()
	if err != nil {
		return nil, fmt.Errorf("open routing netlink: %w", err)
	}
	s := &scene{kernel: k, cfg: cfg, want: want, desired: endpoints{}, vmacs: map[string]*sight{}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if want != nil {
		if s.desired, err = want.endpoints(); err != nil {
			return nil, err
		}
		s.complete = want.Complete
	}
	links, err := k.vmacs()
	if err != nil {
		return nil, err
	}
	indexes := map[int]bool{}
	for _, link := range links {
		indexes[link.Attrs().Index] = true
		if parent, err := k.LinkByIndex(link.Attrs().ParentIndex); err == nil {
			s.vmacs[parent.Attrs().Name] = nil
		}
	}
	if s.own, s.strays, err = k.ownAddresses(indexes); err != nil {
		return nil, err
	}
	for parent := range s.desired {
		s.vmacs[parent] = nil
	}
	for parent := range s.vmacs {
		s.vmacs[parent] = s.see(parent)
	}
	if want == nil {
		return s, s.believeMaps()
	}
	return s, nil
}

func (s *scene) close() {
	for _, v := range s.vmacs {
		if v != nil && v.view != nil {
			_ = v.view.Close()
		}
	}
	s.kernel.close()
}

func (s *scene) see(parent string) *sight {
	v := &sight{vmac: &vmac{parent: parent}}
	link, err := s.LinkByName(parent)
	if err != nil {
		return v
	}
	v.parentLink, v.parentIndex, v.name = link, link.Attrs().Index, vmacName(link.Attrs().Index)
	if link, err = s.LinkByName(v.name); err != nil || !ourVmac(link, vmacMAC(s.cfg.NodeName, parent)) {
		return v
	}
	v.link, v.index = link, link.Attrs().Index
	v.view, v.viewErr = bpf.Open(bpf.Config{PinDir: s.cfg.PinDir, Name: v.name, VMAC: v.index, Parent: v.parentIndex})
	if errors.Is(v.viewErr, fs.ErrNotExist) {
		v.viewErr = fmt.Errorf("nothing is pinned of it: %w", v.viewErr)
	}
	return v
}

// believeMaps takes what the programs know for what is desired.
func (s *scene) believeMaps() error {
	for parent, v := range s.vmacs {
		if v.view == nil {
			continue
		}
		known, err := v.view.Endpoints()
		if err != nil {
			return err
		}
		s.desired[parent] = map[netip.Addr]mac{}
		for _, e := range known {
			s.desired[parent][e.Address] = e.MAC
		}
	}
	return nil
}

func ok(check, format string, args ...any) report.Finding {
	return report.Finding{Check: check, Severity: report.OK, What: fmt.Sprintf(format, args...)}
}

// bad is a finding that fails; what ends with its remedy apart.
func bad(check, remedy, format string, args ...any) report.Finding {
	return report.Finding{Check: check, Severity: report.Fail, What: fmt.Sprintf(format, args...), Remedy: remedy}
}

func warn(check, remedy, format string, args ...any) report.Finding {
	f := bad(check, remedy, format, args...)
	f.Severity = report.Warn
	return f
}

// orOK is the findings, or that all is well.
func orOK(found []report.Finding, check, format string, args ...any) []report.Finding {
	if len(found) > 0 {
		return found
	}
	return []report.Finding{ok(check, format, args...)}
}
