package services

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"

	"github.com/berthdev/berth/service"
)

var seed = maphash.MakeSeed()

// printOf a Service. That two which differ have the same happens once in 2^64.
func printOf(s service.Service) print {
	h := printer{}
	h.SetSeed(seed)
	for _, p := range s.Ports {
		h.text(p.Name)
		h.number(uint64(len(p.Frontends)))
		for _, f := range p.Frontends {
			h.addr(f.Address)
			h.number(uint64(f.Port)<<8 | uint64(f.Protocol))
		}
		h.backends(p.Backends)
		h.backends(p.Staying)
		h.number(uint64(p.Affinity)<<1 | uint64(one(p.Drop)))
		h.number(uint64(len(p.Sources)))
		for _, r := range p.Sources {
			h.addr(r.Addr())
			h.number(uint64(r.Bits()))
		}
		h.text(p.Steered)
	}
	return max(print(h.Sum64()), prints)
}

type printer struct{ maphash.Hash }

func (h *printer) backends(all []service.Backend) {
	h.number(uint64(len(all)))
	for _, b := range all {
		h.addr(b.Address)
		h.text(b.Network)
		h.number(uint64(b.Port)<<1 | uint64(one(b.Node)))
	}
}

func (h *printer) number(n uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	h.Write(b[:])
}

func (h *printer) text(s string) {
	h.number(uint64(len(s)))
	h.WriteString(s)
}

func (h *printer) addr(a netip.Addr) {
	b := a.As16()
	h.Write(b[:])
	h.number(uint64(a.BitLen()))
}
