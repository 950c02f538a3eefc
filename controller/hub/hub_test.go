package hub

import (
	"errors"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestForbiddenOnce(t *testing.T) {
	forbidden := refusal{reasonKubeconfig, apierrors.NewForbidden(schema.GroupResource{Resource: "subnets"}, "", nil)}
	unauthorized := refusal{reasonKubeconfig, apierrors.NewUnauthorized("")}
	h := &Hub{}
	for i, look := range []struct {
		err  error
		want string // reason
	}{
		{unauthorized, reasonKubeconfig},
		{forbidden, reasonAway},
		{forbidden, reasonKubeconfig},
		{forbidden, reasonKubeconfig},
		{nil, ""},
		{forbidden, reasonAway},
		{errors.New("no route to host"), reasonAway},
		{forbidden, reasonAway},
	} {
		got := ""
		if err := h.standing(look.err); err != nil {
			got = reasonOf(err)
		}
		if got != look.want {
			t.Errorf("look %d: %q, want %q", i, got, look.want)
		}
	}
}
