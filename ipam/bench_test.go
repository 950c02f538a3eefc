package ipam

import (
	"fmt"
	"testing"
	"time"
)

// The cost of a choice depends on the leases, not on the range.
func BenchmarkSpace(b *testing.B) {
	for _, cidr := range []string{"10.6.0.0/16", "2001:db8::/64"} {
		for _, leases := range []int{0, 1000, 65000} {
			s := NewSpace(ranges(b, cidr))
			for i := range leases {
				a, _ := s.Next(Choice{Seed: Seed(fmt.Sprint(i))})
				s.Put(a, bound, time.Time{})
			}
			name := fmt.Sprintf("%s/leases=%d", cidr[len(cidr)-2:], leases)
			b.Run("Next/"+name, func(b *testing.B) {
				for i := range b.N {
					s.Next(Choice{Seed: uint64(i) * 0x9e3779b97f4a7c15})
				}
			})
			b.Run("Put/"+name, func(b *testing.B) { // and Forget, so that the number of leases stays
				for i := range b.N {
					a, _ := s.Next(Choice{Seed: uint64(i) * 0x9e3779b97f4a7c15})
					s.Put(a, bound, time.Time{})
					s.Forget(a)
				}
			})
		}
	}
}
