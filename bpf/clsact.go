package bpf

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A filter is ours by its name; handle and priority let a later Attach replace it in one step. A low priority number
// comes first, 1 is what people take who write filters by hand.
const (
	filterHandle   = 0xbe
	filterPriority = 7
)

func filterName(program, vmac string) string { return "berth/" + vmac + "/" + program }

// attachClsact is for kernels before 6.6, which have no tcx. The filter lives and dies with the link, there is nothing to pin.
func attachClsact(h hook, vmac string) error {
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: h.ifindex,
			Handle:    netlink.MakeHandle(0xffff, 0),
			Parent:    netlink.HANDLE_CLSACT,
		},
		QdiscType: "clsact",
	}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact to link %d: %w", h.ifindex, err)
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: h.ifindex,
			Parent:    h.clsact,
			Handle:    filterHandle,
			Priority:  filterPriority,
			Protocol:  unix.ETH_P_ALL,
		},
		Fd:           h.program.FD(),
		Name:         filterName(h.name, vmac),
		DirectAction: true,
	}
	if err := netlink.FilterReplace(filter); err != nil {
		return fmt.Errorf("attach %s to link %d: %w", h.name, h.ifindex, err)
	}
	return nil
}

// attachedClsact says whether our filter is at the hook with our program.
func (s *Steer) attachedClsact(h hook) (bool, error) {
	device := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: h.ifindex}}
	filters, err := dump(func() ([]netlink.Filter, error) { return netlink.FilterList(device, h.clsact) })
	if gone(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list filters of link %d: %w", h.ifindex, err)
	}
	for _, f := range filters {
		b, ok := f.(*netlink.BpfFilter)
		if ok && b.Name == filterName(h.name, s.cfg.Name) && ebpf.ProgramID(b.Id) == s.programs[h.name] {
			return true, nil
		}
	}
	return false, nil
}

// detachClsact removes the filters of a vmac from a link, and clsact with the last filter of anybody.
func detachClsact(ifindex int, vmac string) error {
	device := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	ours, others := 0, 0
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := dump(func() ([]netlink.Filter, error) { return netlink.FilterList(device, parent) })
		if err != nil {
			return fmt.Errorf("list filters of link %d: %w", ifindex, err)
		}
		for _, f := range filters {
			b, ok := f.(*netlink.BpfFilter)
			if !ok || !strings.HasPrefix(b.Name, filterName("", vmac)) {
				others++
				continue
			}
			ours++
			if err := netlink.FilterDel(f); err != nil && !gone(err) {
				return fmt.Errorf("delete filter %s of link %d: %w", b.Name, ifindex, err)
			}
		}
	}
	if ours == 0 || others > 0 {
		return nil
	}
	qdiscs, err := dump(func() ([]netlink.Qdisc, error) { return netlink.QdiscList(device) })
	if err != nil {
		return fmt.Errorf("list qdiscs of link %d: %w", ifindex, err)
	}
	for _, q := range qdiscs {
		if q.Type() != "clsact" {
			continue
		}
		if err := netlink.QdiscDel(q); err != nil && !gone(err) {
			return fmt.Errorf("delete clsact of link %d: %w", ifindex, err)
		}
	}
	return nil
}

// detachClsactAnywhere is for when nobody knows any more which links they were.
func detachClsactAnywhere(vmac string) error {
	links, err := dump(netlink.LinkList) //nolint:forbidigo // dump tries again
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		if err := detachClsact(l.Attrs().Index, vmac); err != nil {
			return err
		}
	}
	return nil
}

// dump repeats a listing that a change of what it lists has interrupted, and so may have left incomplete.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for range 10 {
		out, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return list()
}

// gone: the link, or the thing on it, went away meanwhile.
func gone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT)
}
