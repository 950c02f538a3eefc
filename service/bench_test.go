package service

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/berthdev/berth/ipam"
)

// BenchmarkBuild of one Service with that many endpoints in slices of 100.
func BenchmarkBuild(b *testing.B) {
	v := NewView("node-a", []*Node{nodeOf("node-a a 10.0.0.1")}, []*ipam.Pool{poolOf(b, "blue 10.6.0.0/16")})
	for _, n := range []int{1, 5, 100, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			spec, _ := ReadSpec(serviceOf(b, outer))
			c := NewClaims()
			c.Replace(nil, spec)
			var list []*Slice
			for i := range n {
				if i%100 == 0 {
					list = append(list, &Slice{Name: fmt.Sprintf("%04d", n-i), is4: true, ports: []slicePort{{"p", 8080, TCP}}})
				}
				to := list[len(list)-1]
				to.endpoints = append(to.endpoints, endpoint{address: netip.AddrFrom4([4]byte{10, 6, byte(i * 7 >> 8), byte(i * 7)}), is: ready})
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, bad := Build(spec, list, v, c); bad != nil {
					b.Fatal(bad)
				}
			}
		})
	}
}
