//go:build linux

package links

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// kernel is the routing netlink of the network namespace that it was opened in.
type kernel struct {
	*netlink.Handle
	raw   map[int]*nl.SocketHandle // for messages that the library has no type for
	self  *os.File                 // that namespace
	netNS string                   // directory of the sandboxes' namespaces
}

func openKernel(netNS string) (*kernel, error) {
	self, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		self.Close()
		return nil, err
	}
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		self.Close()
		h.Close()
		return nil, err
	}
	return &kernel{h, map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}, self, netNS}, nil
}

func (k *kernel) close() {
	k.Handle.Close()
	k.raw[unix.NETLINK_ROUTE].Close()
	k.self.Close()
}

// retry repeats a dump that the kernel says was disturbed by a change in its middle, and so may lack entries.
func retry[T any](dump func() (T, error)) (T, error) {
	for i := 0; ; i++ {
		got, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || i == 10 {
			return got, err
		}
	}
}

// observe the links of the node.
func (k *kernel) observe() (Observed, error) {
	links, err := retry(k.links)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	out := Observed{}
	for _, l := range links {
		o := observed(l.Link, names)
		o.MaxMTU = l.maxMTU
		out[o.Name] = o
	}
	if err := k.observeAddresses(names, out); err != nil {
		return nil, err
	}
	return out, k.observeRoutes(names, out)
}

// listed link, with what the library leaves out.
type listed struct {
	netlink.Link
	maxMTU int
}

func (k *kernel) links() (out []listed, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.Sockets = k.raw
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		l, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			return nil, err
		}
		attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
		if err != nil {
			return nil, err
		}
		max := 0
		for _, a := range attrs {
			if a.Attr.Type == unix.IFLA_MAX_MTU && len(a.Value) == 4 {
				max = int(binary.NativeEndian.Uint32(a.Value))
			}
		}
		out = append(out, listed{l, max})
	}
	return out, nil
}

func observed(l netlink.Link, names map[int]string) Link {
	a := l.Attrs()
	o := Link{Name: a.Name, Index: a.Index, Kind: l.Type(), Alias: a.Alias, Up: a.Flags&net.FlagUp != 0, MTU: a.MTU,
		MAC: a.HardwareAddr.String(), Master: names[a.MasterIndex]}
	switch l := l.(type) {
	case *netlink.Bond:
		o.Bond = &BondState{Mode: l.Mode.String(), Miimon: l.Miimon}
		if l.Primary > 0 {
			o.Bond.Primary = names[l.Primary]
		}
	case *netlink.Vlan:
		o.VLAN, o.Below = l.VlanId, names[a.ParentIndex]
	case *netlink.Vxlan:
		o.Below = names[l.VtepDevIndex]
	case *netlink.Veth, *netlink.Device: // a veth's parent is its peer
	default:
		if a.NetNsID < 0 {
			o.Below = names[a.ParentIndex]
		}
	}
	return o
}

func (k *kernel) observeAddresses(names map[int]string, out Observed) error {
	addrs, err := retry(func() ([]netlink.Addr, error) { return k.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		l, known := out[names[a.LinkIndex]]
		if ip = ip.Unmap(); !ok || !known || ip.Is6() && ip.IsLinkLocalUnicast() || ip.IsLoopback() {
			continue
		}
		l.Addresses = append(l.Addresses, Address{Prefix: netip.PrefixFrom(ip, ones), Leased: a.Flags&unix.IFA_F_PERMANENT == 0})
		out[l.Name] = l
	}
	for name, l := range out {
		slices.SortFunc(l.Addresses, func(a, b Address) int { return a.Prefix.Addr().Compare(b.Prefix.Addr()) })
		out[name] = l
	}
	return nil
}

// observeRoutes finds who has the default routes, and who shares a route.
func (k *kernel) observeRoutes(names map[int]string, out Observed) error {
	routes, err := retry(func() ([]netlink.Route, error) {
		return k.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	set := func(index int, f func(*Link)) {
		if l, ok := out[names[index]]; ok {
			f(&l)
			out[l.Name] = l
		}
	}
	for _, r := range routes {
		def := r.Dst == nil || r.Dst.IP.IsUnspecified()
		if def && len(r.MultiPath) == 0 {
			set(r.LinkIndex, func(l *Link) { l.Default = true })
		}
		for _, hop := range r.MultiPath {
			set(hop.LinkIndex, func(l *Link) { l.Multipath = true; l.Default = l.Default || def })
		}
	}
	return nil
}

// users of a link among the sandboxes: their interfaces that send by it. The kernel takes these away with the link, wherever they are,
// and does not show them here.
func (k *kernel) users(index int) (out []string, err error) {
	files, err := filepath.Glob(filepath.Join(k.netNS, "*"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		names, err := k.usersIn(file, index)
		if err != nil {
			return nil, fmt.Errorf("look for users of a link in %s: %w", file, err)
		}
		out = append(out, names...)
	}
	return out, nil
}

func (k *kernel) usersIn(file string, index int) (out []string, err error) {
	ns, err := netns.GetFromPath(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer ns.Close() //nolint:errcheck // read only
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(ns), &fs); err != nil || fs.Type != unix.NSFS_MAGIC { // the name is there, and no namespace mounted on it
		return nil, err
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	here, err := h.GetNetNsIdByFd(int(k.self.Fd()))
	if err != nil || here < 0 {
		return nil, err // it knows nothing of this namespace, so nothing in it is on a link of it
	}
	links, err := retry(h.LinkList)
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if a := l.Attrs(); l.Type() != "veth" && a.ParentIndex == index && a.NetNsID == here {
			out = append(out, fmt.Sprintf("%s in %s", a.Name, strings.TrimPrefix(file, k.netNS+"/")))
		}
	}
	return out, nil
}
