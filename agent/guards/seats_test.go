//go:build linux

package guards

import (
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
)

// The program finds an interface fast once Run has looked, and not any more when it is another's.
func TestSeated(t *testing.T) {
	eachMode(t, func(s *sandbox) {
		seated := func() (n int) {
			s.Helper()
			m, err := ebpf.LoadPinnedMap(filepath.Join(s.cfg.PinDir, "guards1", "seats"), nil)
			s.must(err)
			defer m.Close()
			var i uint32
			var seat struct { // as in source.h
				Cookie   uint64
				Index, _ uint32
				MAC      [6]byte
				Flags    uint16
				IPv4     [2][4]byte
				IPv6     [2][16]byte
			}
			it := m.Iterate()
			for it.Next(&i, &seat) {
				if seat.Flags&(1<<15) != 0 && seat.MAC == [6]byte(podMAC) {
					n++
				}
			}
			s.must(it.Err())
			return n
		}
		s.must(s.Attach(s.Interface))
		s.want(true)
		if n := seated(); n != 0 {
			s.Errorf("%d seats before a look", n)
		}
		s.must(s.look(false))
		s.want(true)
		if n := seated(); n != 1 {
			s.Errorf("%d seats", n)
		}
		s.must(s.Detach(s.ContainerID, s.Interface.Name))
		if n := seated(); n != 0 || s.passes("10.1.0.11") {
			s.Errorf("%d seats of one that is silent", n)
		}
	})
}
