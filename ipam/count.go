package ipam

import (
	"math/big"
	"strings"
)

// Readable joins the counts of the families: "250", or "250 + 2^64" for dual stack.
func Readable(counts []*big.Int) string {
	parts := make([]string, len(counts))
	for i, n := range counts {
		parts[i] = short(n)
	}
	return strings.Join(parts, " + ")
}

// short is a count as people read it: exact up to nine digits; above, the power of two that is less than 0.1 % away, so that a /64
// reads 2^64 with or without its gateway; else two digits and the power of ten.
func short(n *big.Int) string {
	const exact = 9
	if s := n.String(); len(s) <= exact {
		return s
	}
	bits := n.BitLen()
	for _, e := range []int{bits - 1, bits} {
		power := new(big.Int).Lsh(big.NewInt(1), uint(e))
		off := new(big.Int).Sub(n, power)
		if off.Abs(off).Mul(off, big.NewInt(1000)).Cmp(power) < 0 {
			return "2^" + big.NewInt(int64(e)).String()
		}
	}
	return new(big.Float).SetInt(n).Text('g', 2)
}
