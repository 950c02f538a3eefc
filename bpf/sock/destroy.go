package sock

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/service"
)

// ErrNoDestroy is that the kernel cannot destroy UDP sockets for others. Those of applications that never connect anew go on sending to
// a backend that is gone.
var ErrNoDestroy = errors.New("the kernel destroys no UDP sockets (CONFIG_INET_DIAG_DESTROY, CONFIG_INET_UDP_DIAG)")

// DestroyUDP ends the connected UDP sockets in a network namespace that were translated to one of the removed backends and whose
// frontend has it no more; returns how many. One that waits for an answer gets ECONNABORTED, and none is connected any more, so that
// applications connect anew. Others, say of another Service with the same backend, are left alone, as is TCP, which ends with its peer.
func (p *Programs) DestroyUDP(netns string, removed []Removed) (n int, err error) {
	gone := make(map[endpoint]bool)
	for _, r := range removed {
		if r.Protocol == service.UDP {
			gone[endpointOf(r.Backend.Addr(), r.Backend.Port(), r.Protocol)] = true
		}
	}
	if len(gone) == 0 {
		return 0, nil
	}
	err = Within(netns, func() error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			sockets, err := connectedUDP(family)
			if err != nil {
				return err
			}
			for _, s := range sockets {
				if !gone[s.peer()] {
					continue
				}
				if stale, err := p.stray(s); err != nil {
					return err
				} else if !stale {
					continue
				}
				if err := s.destroy(); err != nil {
					return err
				}
				n++
			}
		}
		return nil
	})
	if err != nil {
		return n, fmt.Errorf("destroy UDP sockets: %w", err)
	}
	return n, nil
}

// stray says whether the socket was translated, and would not be to its peer now.
func (p *Programs) stray(s diagnosed) (bool, error) {
	var o origin
	if ok, err := has(p.maps.Origins, useKey{Socket: s.cookie(), Address: s.peer()}, &o); !ok || err != nil {
		return false, err
	}
	ok, err := p.leads(o.Frontend, s.peer())
	return !ok && err == nil, err
}

// leads says whether the frontend has the backend.
func (p *Programs) leads(frontend, to endpoint) (bool, error) {
	id, ok, err := p.service(frontend)
	if !ok || err != nil {
		return false, err
	}
	var network uint64
	if ok, err = has(p.maps.Members, memberKey{id, to}, &network); ok || err != nil {
		return ok, err
	}
	to.Protocol |= stays
	return has(p.maps.Members, memberKey{id, to}, &network)
}

// strays are the backends that sockets mean by a frontend which has them no more. Whoever removed them may have died before DestroyUDP.
func (p *Programs) strays() (backends []endpoint, err error) {
	origins := make(map[useKey]origin)
	if err := contents(p.maps.Origins, origins); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) { // sockets write there all the time
		return nil, err
	}
	for use, o := range origins {
		if ok, err := p.leads(o.Frontend, use.Address); err != nil {
			return nil, err
		} else if !ok {
			backends = append(backends, use.Address)
		}
	}
	return backends, nil
}

// diagnosed is a socket as the kernel tells of it: struct inet_diag_msg (linux/inet_diag.h), family and state, then what identifies it.
type diagnosed []byte

const (
	sizeofID   = 48
	offsetOfID = 4 // in inet_diag_msg; 8 in inet_diag_req_v2
)

func (s diagnosed) id() []byte { return s[offsetOfID : offsetOfID+sizeofID] }

// peer is the address that the socket is connected to.
func (s diagnosed) peer() endpoint {
	e := endpoint{Protocol: unix.IPPROTO_UDP, Port: [2]byte(s.id()[2:])}
	if s[0] == unix.AF_INET {
		e.Address = [16]byte{10: 0xff, 11: 0xff}
		copy(e.Address[12:], s.id()[20:24])
	} else {
		e.Address = [16]byte(s.id()[20:])
	}
	return e
}

func (s diagnosed) cookie() uint64 {
	words := s.id()[40:]
	return uint64(binary.NativeEndian.Uint32(words)) | uint64(binary.NativeEndian.Uint32(words[4:]))<<32
}

// destroy is no error for a socket that is gone by now.
func (s diagnosed) destroy() error {
	_, err := request(nl.SOCK_DESTROY, unix.NLM_F_ACK, s[0], s.id()).Execute(unix.NETLINK_INET_DIAG, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return ErrNoDestroy
	}
	return fmt.Errorf("socket connected to %s: %w", s.peer(), err)
}

// connectedUDP lists the UDP sockets of the family that are connected, in the thread's network namespace. A list that was interrupted
// by a change is made again.
func connectedUDP(family uint8) (sockets []diagnosed, err error) {
	for range 10 {
		sockets = nil
		err = request(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, family, make([]byte, sizeofID)).
			ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(message []byte) bool {
				if len(message) >= offsetOfID+sizeofID {
					sockets = append(sockets, append(diagnosed(nil), message...))
				}
				return true
			})
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if errors.Is(err, unix.ENOENT) {
		return nil, ErrNoDestroy
	}
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	return sockets, nil
}

// body is a struct inet_diag_req_v2.
type body []byte

func (b body) Len() int          { return len(b) }
func (b body) Serialize() []byte { return b }

func request(kind, flags int, family uint8, id []byte) *nl.NetlinkRequest {
	b := body{family, unix.IPPROTO_UDP, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, 1<<1) // connected: TCP_ESTABLISHED
	r := nl.NewNetlinkRequest(kind, flags)
	r.AddData(append(b, id...))
	return r
}
