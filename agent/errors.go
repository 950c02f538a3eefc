package agent

import (
	"context"
	"errors"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store"
)

// errNotReady: the agent has just started.
var errNotReady = errors.New("berth-agent has not yet read the pools and leases from the Kubernetes API; try again in a moment")

// badConfig is an error in the network configuration, badRequest one in an annotation or CNI argument; notBound is CHECK's.
type (
	badConfig  struct{ error }
	badRequest struct{ error }
	notBound   struct{ error }
)

func (e badConfig) Unwrap() error  { return e.error }
func (e badRequest) Unwrap() error { return e.error }
func (e notBound) Unwrap() error   { return e.error }

// cniError gives an error its CNI code. This is the only place that does.
func cniError(err error, status bool) *delegate.Error {
	code := types.ErrInternal
	var config badConfig
	var request badRequest
	var bound notBound
	var delegated delegateError
	switch {
	case status:
		code = delegate.CodeNotAvailable
	case errors.As(err, &config):
		code = types.ErrInvalidNetworkConfig
	case errors.As(err, &request), errors.Is(err, ipam.ErrOutside):
		code = delegate.CodeBadRequest
	case errors.As(err, &bound):
		code = delegate.CodeNotBound
	case errors.Is(err, ipam.ErrExhausted): // before ErrNoPool: among several pools, the full one is what can be helped
		code = delegate.CodeExhausted
	case errors.As(err, &delegated) && delegated.err.Code == types.ErrTryAgainLater:
		code = types.ErrTryAgainLater
	case errors.As(err, &delegated):
		code = delegate.CodeDelegate
	case errors.Is(err, ipam.ErrNoPool):
		code = delegate.CodeNoPool
	case errors.Is(err, ipam.ErrTaken):
		code = delegate.CodeAddressTaken
	case errors.Is(err, errNotReady), errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrPoolChanged), errors.Is(err, ipam.ErrHeld), errors.Is(err, errAwaited),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		code = types.ErrTryAgainLater
	}
	return &delegate.Error{Code: code, Msg: err.Error()}
}
