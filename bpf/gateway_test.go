package bpf

import (
	"testing"

	"github.com/berthdev/berth/api/v1alpha1"
)

// Pools are refused for the addresses that the programs answer for.
func TestGatewayOfAPI(t *testing.T) {
	if Gateway4 != addr(v1alpha1.ServiceGateway4) || Gateway6 != addr(v1alpha1.ServiceGateway6) {
		t.Errorf("%s, %s; package v1alpha1 has %s, %s", Gateway4, Gateway6, v1alpha1.ServiceGateway4, v1alpha1.ServiceGateway6)
	}
}
