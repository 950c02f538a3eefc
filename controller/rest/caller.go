package rest

import (
	"errors"
	"net/http"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgo "k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

// manager of the fields that are written, and the value of the label berth.dev/managed-by of what is made.
const manager = "berth-rest"

// newReviews gives the client that asks Kubernetes about callers, with the controller's account.
func newReviews(rc *clientgo.Config) (client.Client, error) {
	rc = clientgo.CopyConfig(rc)
	rc.RateLimiter, rc.QPS, rc.Burst = nil, 50, 100 // of its own: strangers do not slow the controller down
	rc.Timeout = requestTimeout
	scheme := runtime.NewScheme()
	m := meta.NewDefaultRESTMapper(nil)
	for _, add := range []func(*runtime.Scheme) error{authenticationv1.AddToScheme, authorizationv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	m.Add(authenticationv1.SchemeGroupVersion.WithKind("TokenReview"), meta.RESTScopeRoot)
	m.Add(authorizationv1.SchemeGroupVersion.WithKind("SubjectAccessReview"), meta.RESTScopeRoot)
	return client.New(rc, client.Options{Scheme: scheme, Mapper: m})
}

var errNobody = errors.New("a request to the API server without a caller")

// newCallers gives the client that acts for whoever is in the context, by his token and by nothing of the controller's.
func newCallers(rc *clientgo.Config) (client.Client, error) {
	rc = clientgo.AnonymousClientConfig(rc)
	rc.RateLimiter, rc.QPS, rc.Burst = nil, 100, 200 // of its own: callers do not slow the controller down
	rc.Timeout = requestTimeout
	rc.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			c := callerOf(r.Context())
			if c == nil {
				return nil, errNobody
			}
			r = r.Clone(r.Context())
			r.Header.Set("Authorization", "Bearer "+c.token)
			return next.RoundTrip(r)
		})
	})
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, nadv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	return client.New(rc, client.Options{Scheme: scheme, Mapper: mapper()})
}

// mapper knows the kinds by heart: discovery would ask on somebody's behalf what all get the same answer to.
func mapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	for kind, r := range map[string]resource{
		"Subnet": subnets, "IPBlock": blocks, "IPPool": pools, "IPLease": leases, "HostNetwork": hostNetworks,
	} {
		add(m, v1alpha1.GroupVersion.WithKind(kind), r, meta.RESTScopeRoot)
	}
	add(m, nadv1.SchemeGroupVersion.WithKind("NetworkAttachmentDefinition"), attachments, meta.RESTScopeNamespace)
	return m
}

func add(m *meta.DefaultRESTMapper, gvk schema.GroupVersionKind, r resource, scope meta.RESTScope) {
	plural := gvk.GroupVersion().WithResource(r.plural)
	m.AddSpecific(gvk, plural, plural, scope)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
