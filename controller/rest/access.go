package rest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// How long a review counts. A token taken back, or a role, still works that long at the door; what lies behind it is asked of the API server
// with the token itself, and refused at once.
const (
	reviewFor  = 10 * time.Second
	refusedFor = 5 * time.Second
	reviews    = 4096
	longest    = 16 << 10 // bytes of a token that are read at all
)

// caller is who asks.
type caller struct {
	token string
	key   [sha256.Size]byte // of the token, for caches: no token is kept
	user  authenticationv1.UserInfo
}

type callerKey struct{}

func callerOf(ctx context.Context) *caller {
	c, _ := ctx.Value(callerKey{}).(*caller)
	return c
}

// door asks Kubernetes who somebody is and what he may do.
type door struct {
	reviews client.Client // with the controller's account, for nothing but reviews
	known   *cache.LRUExpireCache
	may     *cache.LRUExpireCache
}

func newDoor(c client.Client) *door {
	return &door{reviews: c, known: cache.NewLRUExpireCache(reviews), may: cache.NewLRUExpireCache(reviews)}
}

func unauthorized(detail string) *Problem {
	return problem(http.StatusUnauthorized, "%s", detail).with("WWW-Authenticate", `Bearer realm="berth"`)
}

// enter finds out who sent the request.
func (d *door) enter(r *http.Request) (*caller, *Problem) {
	const remedy = "send the header Authorization: Bearer TOKEN with a token of the Kubernetes API, such as kubectl create token prints"
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return nil, unauthorized("no token; " + remedy)
	}
	if len(token) > longest || strings.ContainsAny(token, " \t\r\n") {
		return nil, unauthorized("the token is none of the Kubernetes API; " + remedy)
	}
	c := &caller{token: token, key: sha256.Sum256([]byte(token))}
	if v, ok := d.known.Get(c.key); ok {
		if p, ok := v.(*Problem); ok {
			return nil, p
		}
		c.user = v.(authenticationv1.UserInfo)
		return c, nil
	}
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
	if err := d.reviews.Create(r.Context(), review); err != nil {
		return nil, problem(http.StatusServiceUnavailable, "the Kubernetes API cannot say whose the token is: %v; try again", err).with("Retry-After", "5")
	}
	if !review.Status.Authenticated {
		why := "the token is not, or no longer, valid"
		if review.Status.Error != "" {
			why += " (" + brief(review.Status.Error).(string) + ")"
		}
		p := unauthorized(why + "; " + remedy)
		d.known.Add(c.key, p, refusedFor)
		return nil, p
	}
	c.user = review.Status.User
	d.known.Add(c.key, c.user, reviewFor)
	return c, nil
}

// access to an object, or with an empty name to any of the kind.
type access struct {
	verb      string
	kind      resource
	namespace string
	name      string
}

type resource struct{ group, plural string }

var (
	subnets      = resource{"berth.dev", "subnets"}
	blocks       = resource{"berth.dev", "ipblocks"}
	pools        = resource{"berth.dev", "ippools"}
	leases       = resource{"berth.dev", "ipleases"}
	hostNetworks = resource{"berth.dev", "hostnetworks"}
	attachments  = resource{"k8s.cni.cncf.io", "network-attachment-definitions"}
)

func (a access) String() string {
	s := fmt.Sprintf("%s %s.%s", a.verb, a.kind.plural, a.kind.group)
	if a.name != "" {
		s += fmt.Sprintf(" %q", a.name)
	}
	if a.namespace != "" {
		s += fmt.Sprintf(" in namespace %q", a.namespace)
	}
	return s
}

// check that the caller may do all of this, before any of it is begun.
func (d *door) check(ctx context.Context, all ...access) error {
	c := callerOf(ctx)
	for _, a := range all {
		allowed, why, err := d.allows(ctx, c, a)
		if err != nil {
			return problem(http.StatusServiceUnavailable, "the Kubernetes API cannot say whether %q may %s: %v; try again", c.user.Username, a, err).
				with("Retry-After", "5")
		}
		if !allowed {
			if why != "" {
				why = " (" + why + ")"
			}
			return problem(http.StatusForbidden, "user %q may not %s%s; have a role with that verb bound to it", c.user.Username, a, why)
		}
	}
	return nil
}

type verdict struct {
	allowed bool
	why     string
}

func (d *door) allows(ctx context.Context, c *caller, a access) (bool, string, error) {
	type key struct {
		token [sha256.Size]byte
		access
	}
	k := key{c.key, a}
	if v, ok := d.may.Get(k); ok {
		return v.(verdict).allowed, v.(verdict).why, nil
	}
	extra := map[string]authorizationv1.ExtraValue{}
	for name, values := range c.user.Extra {
		extra[name] = authorizationv1.ExtraValue(values)
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: c.user.Username, UID: c.user.UID, Groups: c.user.Groups, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: a.verb, Group: a.kind.group, Resource: a.kind.plural, Namespace: a.namespace, Name: a.name,
		},
	}}
	if err := d.reviews.Create(ctx, review); err != nil {
		return false, "", err
	}
	v := verdict{review.Status.Allowed, review.Status.Reason}
	if !v.allowed && review.Status.EvaluationError != "" {
		v.why = review.Status.EvaluationError
	}
	ttl := reviewFor
	if !v.allowed {
		ttl = refusedFor
	}
	d.may.Add(k, v, ttl)
	return v.allowed, v.why, nil
}
