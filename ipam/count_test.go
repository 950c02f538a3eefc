package ipam

import (
	"math/big"
	"testing"
)

func TestShort(t *testing.T) {
	power := func(e uint) *big.Int { return new(big.Int).Lsh(big.NewInt(1), e) }
	less := func(n *big.Int, by int64) *big.Int { return new(big.Int).Sub(n, big.NewInt(by)) }
	for _, tc := range []struct {
		n    *big.Int
		want string
	}{
		{big.NewInt(0), "0"},
		{big.NewInt(250), "250"},
		{big.NewInt(65534), "65534"},
		{power(24), "16777216"},
		{big.NewInt(999999999), "999999999"},
		{power(32), "2^32"},
		{power(64), "2^64"},
		{less(power(64), 2), "2^64"},
		{less(power(64), 1000000), "2^64"},
		{new(big.Int).Add(power(64), big.NewInt(7)), "2^64"},
		{power(128), "2^128"},
		{new(big.Int).Mul(power(64), big.NewInt(3)), "5.5e+19"},
		{new(big.Int).Sub(power(40), power(38)), "8.2e+11"},
	} {
		if got := short(tc.n); got != tc.want {
			t.Errorf("short(%s) = %q, want %q", tc.n, got, tc.want)
		}
	}
}

func TestReadable(t *testing.T) {
	if got := Readable([]*big.Int{big.NewInt(250), new(big.Int).Lsh(big.NewInt(1), 64)}); got != "250 + 2^64" {
		t.Errorf("got %q", got)
	}
	if got := Readable(nil); got != "" {
		t.Errorf("got %q", got)
	}
}
