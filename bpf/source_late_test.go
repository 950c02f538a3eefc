package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os/exec"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// fold is the Internet checksum of a part of a frame.
func fold(b []byte) uint16 {
	sum := uint32(0)
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) > 0 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// sendWith has the kernel do what a header before the frame (PACKET_VNET_HDR) says, under any protocol.
func (g *guarded) sendWith(header [10]byte, protocol uint16, frame []byte) error {
	g.Helper()
	var err error
	g.pod.Do(func() {
		fd, e := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		g.must(e)
		defer unix.Close(fd)
		g.must(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1))
		err = unix.Sendto(fd, slices.Concat(header[:], frame), 0, &unix.SockaddrLinklayer{Ifindex: g.at.Index, Protocol: protocol>>8 | protocol<<8})
	})
	return err
}

func needsChecksum(start, offset uint16) (header [10]byte) {
	header[0] = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	binary.NativeEndian.PutUint16(header[6:], start)
	binary.NativeEndian.PutUint16(header[8:], offset)
	return header
}

// arrived are the frames that come out of the wire before one that always does.
func (g *guarded) arrived() (frames [][]byte) {
	g.Helper()
	end := ipv4(alien, pod1, pod4.String(), "192.0.2.77", []byte(time.Now().String())...)
	g.send(g.pod, "eth0", end)
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for _, f := range g.seen() {
			if bytes.HasPrefix(f, end) {
				return frames
			}
			frames = append(frames, f)
		}
	}
	g.Fatal("the wire is silent")
	return nil
}

// A checksum is computed when the guard has looked, here as there is no NIC that does it later, and written where the sender says.
func TestSourceGuardChecksum(t *testing.T) {
	if _, err := btf.LoadKernelSpec(); err != nil {
		t.Skip("the kernel does not say where a checksum goes: ", err)
	}
	eachMode(t, func(l *lab) {
		g := newGuarded(l)
		l.pod.Do(func() { l.must(g.Guard(g.at)) })
		g.settled(!l.cfg.Clsact)
		l.node.Do(func() { l.must(withoutChecksums("nic")) })
		echo := icmpv6(alien, pod1, pod6.String(), "2001:4860::1", 128, 0, 0, 0, 0, 1, 0, 1)
		for _, tt := range []struct {
			name          string
			start, offset uint16
			frame         []byte
			passes        bool
		}{
			{"source of IPv4", 20, 8, ipv4(alien, pod1, pod4.String(), "192.0.2.1", make([]byte, 40)...), false},
			{"source of IPv6", 20, 16, ipv6(alien, pod1, pod6.String(), "2001:4860::1", 17, 64, make([]byte, 40)...), false},
			{"sender of ARP", 20, 10, append(whoHas(pod1, pod4.String(), "10.1.0.1"), make([]byte, 40)...), false},
			{"type of ICMPv6", 54, 0, append(echo, make([]byte, 40)...), false},
			{"UDP", 34, 6, ipv4(alien, pod1, pod4.String(), "192.0.2.1", make([]byte, 40)...), true},
			{"UDP of IPv6", 54, 6, ipv6(alien, pod1, pod6.String(), "2001:4860::1", 17, 64, make([]byte, 40)...), true},
			{"TCP behind an extension header", 62, 16, ipv6(alien, pod1, pod6.String(), "2001:4860::1", 60, 64, append([]byte{6, 0, 1, 4, 0, 0, 0, 0}, make([]byte, 40)...)...), true},
		} {
			at := tt.start + tt.offset
			want := slices.Clone(tt.frame)
			binary.BigEndian.PutUint16(want[at:], fold(tt.frame[tt.start:]))
			g.seen()
			err := g.sendWith(needsChecksum(tt.start, tt.offset), binary.BigEndian.Uint16(tt.frame[12:]), tt.frame)
			passed := slices.ContainsFunc(g.arrived(), func(f []byte) bool { return bytes.Equal(f, want) })
			if passed != tt.passes {
				l.Errorf("%s rewritten by a checksum passes: %v (sent: %v)", tt.name, passed, err)
			}
		}
	})
}

// withoutChecksums has the kernel compute what the NIC would.
func withoutChecksums(nic string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := struct{ cmd, data uint32 }{unix.ETHTOOL_STXCSUM, 0}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], nic)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}

// The frames of a packet socket's ring are the sender's memory, which it may write while they are on their way. What was judged of them
// is not.
func TestSourceGuardOfSharedMemory(t *testing.T) {
	eachMode(t, func(l *lab) {
		g := newGuarded(l)
		l.pod.Do(func() { l.must(g.Guard(g.at)) })
		g.settled(!l.cfg.Clsact)
		l.node.Do(func() { // a NIC that is slow to read what it is to send
			out, err := exec.Command("tc", "qdisc", "add", "dev", "nic", "root", "tbf", "rate", "8kbit", "burst", "1600", "limit", "9000").CombinedOutput()
			if err != nil {
				l.Skipf("the kernel has no such queue: %v: %s", err, out)
			}
		})
		l.send(l.pod, "eth0", ipv4(alien, pod1, pod4.String(), "192.0.2.1", make([]byte, 1550)...))
		own := nd(136, 0x20, pod6.String(), targetOption(pod1))
		forged := nd(136, 0x20, "2001:db8:1::99", targetOption(pod1))
		for name, f := range map[string]struct{ sent, then []byte }{
			"advertisement": {icmpv6(alien, pod1, pod6.String(), "ff02::1", own...), icmpv6(alien, pod1, pod6.String(), "ff02::1", forged...)},
			"behind an extension header": {extended(icmpv6(alien, pod1, pod6.String(), "ff02::1", own...), 60, 58, 0, 1, 4, 0, 0, 0, 0),
				extended(icmpv6(alien, pod1, pod6.String(), "ff02::1", forged...), 60, 58, 0, 1, 4, 0, 0, 0, 0)},
			"IPv4": {ipv4(broadcast, pod1, pod4.String(), "192.0.2.1", 0, 1, 0, 2), ipv4(broadcast, pod1, "10.1.0.99", "192.0.2.1", 0, 1, 0, 2)},
		} {
			g.seen()
			g.sendAndChange(f.sent, f.then)
			frames := g.arrived()
			if !slices.ContainsFunc(frames, func(b []byte) bool { return bytes.Equal(b, f.sent) }) {
				l.Errorf("%s does not arrive as it was judged: %x", name, frames)
			}
		}
	})
}

// sendAndChange sends a frame from a ring, and then writes another in its place.
func (g *guarded) sendAndChange(frame, then []byte) {
	g.Helper()
	g.pod.Do(func() {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		g.must(err)
		defer unix.Close(fd)
		size := unix.Getpagesize()
		g.must(unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_TX_RING, &unix.TpacketReq{Block_size: uint32(size), Block_nr: 1, Frame_size: uint32(size), Frame_nr: 1}))
		ring, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		g.must(err)
		defer func() { g.must(unix.Munmap(ring)) }()
		header := (*unix.TpacketHdr)(unsafe.Pointer(&ring[0]))
		data := ring[unix.SizeofTpacketHdr:]
		header.Len = uint32(copy(data, frame))
		header.Status = unix.TP_STATUS_SEND_REQUEST
		g.must(unix.Sendto(fd, nil, unix.MSG_DONTWAIT, &unix.SockaddrLinklayer{Ifindex: g.at.Index, Protocol: binary.NativeEndian.Uint16(frame[12:])}))
		copy(data, then)
	})
}

// A frame that is cut into segments under another protocol has fields written at that one's places.
func TestSourceGuardSegments(t *testing.T) {
	eachMode(t, func(l *lab) {
		g := newGuarded(l)
		from := netip.MustParseAddr("10.6.0.11")
		l.must(g.Put(g.at, Source{MAC: pod1, Addresses: []netip.Addr{pod4, from}}))
		l.pod.Do(func() { l.must(g.Guard(g.at)) })
		g.settled(!l.cfg.Clsact)
		frame := ipv4(alien, pod1, from.String(), "192.0.2.1", make([]byte, 2028)...)
		binary.BigEndian.PutUint16(frame[18:], 0x4500)
		header := needsChecksum(38, 16)
		header[1] = 1 // VIRTIO_NET_HDR_GSO_TCPV4
		binary.NativeEndian.PutUint16(header[2:], 58)
		binary.NativeEndian.PutUint16(header[4:], 700)
		frame[38+12] = 5 << 4
		l.node.Do(func() { l.must(withoutChecksums("nic")) })
		g.seen()
		err := g.sendWith(header, unix.ETH_P_8021Q, frame)
		for _, f := range g.arrived() {
			if f[12] == 8 && f[13] == 0 && !bytes.Equal(f[26:30], from.AsSlice()) {
				l.Errorf("from %d.%d.%d.%d (sent: %v)", f[26], f[27], f[28], f[29], err)
			}
		}
	})
}

// Where the kernel does not tell of its structures, the program is loaded all the same.
func TestSourceWithoutTypes(t *testing.T) {
	spec, err := loadSource()
	if err != nil {
		t.Fatal(err)
	}
	types, err := noTypes()
	if err != nil {
		t.Fatal(err)
	}
	var objects sourceObjects
	if err := spec.LoadAndAssign(&objects, &ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{KernelTypes: types}}); err != nil {
		t.Fatalf("%+v", err)
	}
	if err := objects.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestBehindSourceGuard: a filter of the pod's own comes after the guard in both modes, and what it does to frames is not seen, as
// docs/operations.md (Security) tells. A program stands for pedit here, which not all kernels have.
func TestBehindSourceGuard(t *testing.T) {
	eachMode(t, func(l *lab) {
		g := newGuarded(l)
		l.pod.Do(func() { l.must(g.Guard(g.at)) })
		g.settled(!l.cfg.Clsact)
		other := netip.MustParseAddr("10.1.0.99").As4()
		rewrite, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
			asm.StoreImm(asm.RFP, -4, int64(binary.NativeEndian.Uint32(other[:])), asm.Word),
			asm.Mov.Imm(asm.R2, 26),
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.Add.Imm(asm.R3, -4),
			asm.Mov.Imm(asm.R4, 4),
			asm.Mov.Imm(asm.R5, 0),
			asm.FnSkbStoreBytes.Call(),
			asm.Mov.Imm(asm.R0, -1),
			asm.Return(),
		}})
		l.must(err)
		defer rewrite.Close()
		l.pod.Do(func() {
			qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: g.at.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
			if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
				l.Fatal(err)
			}
			l.must(netlink.FilterAdd(&netlink.BpfFilter{Fd: rewrite.FD(), Name: "own", DirectAction: true,
				FilterAttrs: netlink.FilterAttrs{LinkIndex: g.at.Index, Parent: netlink.HANDLE_MIN_EGRESS, Priority: 99, Protocol: unix.ETH_P_ALL}}))
		})
		sent := ipv4(alien, pod1, pod4.String(), "192.0.2.1")
		g.seen()
		l.send(l.pod, "eth0", sent)
		g.arrives(g.seen, bent(sent, 26, other[:]...), "what the pod's own filter has rewritten")
	})
}
