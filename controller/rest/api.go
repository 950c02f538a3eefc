package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	kjson "sigs.k8s.io/json"

	"github.com/berthdev/berth/api/v1alpha1"
)

// documentPath of the OpenAPI document, which alone everybody may read.
const documentPath = "/openapi.json"

// api answers requests. client acts for the caller in the context.
type api struct {
	door   *door
	client client.Client
	log    logr.Logger
	now    func() time.Time
}

func (a *api) handler() http.Handler {
	mux := http.NewServeMux()
	document := a.register(mux)
	mux.HandleFunc("GET "+documentPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(document) // the client is gone
	})
	return a.guard(routed(mux))
}

// register the operations, and write the document that describes them.
func (a *api) register(mux *http.ServeMux) (document []byte) {
	cfg := huma.DefaultConfig("Berth", "v1")
	cfg.Info.Description = "Management of networks, pools and fixed addresses. The token is one of the Kubernetes API, and so are the rights; " +
		"what is written are the objects that kubectl would write."
	cfg.OpenAPIPath, cfg.DocsPath, cfg.SchemasPath, cfg.CreateHooks = "", "", "", nil
	cfg.RejectUnknownQueryParameters = true
	format := huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: strict}
	cfg.Formats = map[string]huma.Format{"application/json": format, "json": format} // "json": of application/problem+json
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"kubernetes": {
		Type: "http", Scheme: "bearer", Description: "A token of the Kubernetes API, such as kubectl create token prints."}}
	cfg.Security = []map[string][]string{{"kubernetes": {}}}
	cfg.Tags = []*huma.Tag{
		{Name: "networks", Description: "A network is a Subnet with the links and attachments that were made with it; it has the Subnet's name."},
		{Name: "pools", Description: "IPPools, carved from a network or with addresses of their own."},
		{Name: "applications", Description: "Addresses fixed to an application: Reserved IPLeases with its identity."},
		{Name: "addresses", Description: "Who has an address: IPLeases."},
	}
	h := humago.New(mux, cfg)
	a.networks(h)
	a.pools(h)
	a.applications(h)
	a.addresses(h)
	document, err := json.MarshalIndent(h.OpenAPI(), "", "  ")
	if err != nil {
		panic(err) // the same document at each start
	}
	return append(document, '\n')
}

// strict reads JSON as the API server does: a key counts as it is written, and only once.
func strict(data []byte, v any) error {
	faults, err := kjson.UnmarshalStrict(data, v, kjson.DisallowDuplicateFields)
	if err == nil && len(faults) > 0 {
		err = faults[0]
	}
	return err
}

// routed answers what has no route as a problem, too.
func routed(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h, pattern := mux.Handler(r); pattern == "" {
			said := httptest.NewRecorder()
			h.ServeHTTP(said, r)
			if said.Code == http.StatusMethodNotAllowed {
				allow := said.Header().Get("Allow")
				problem(said.Code, "%s %s: no such operation; this path takes %s", r.Method, r.URL.Path, allow).with("Allow", allow).write(w)
				return
			}
			problem(http.StatusNotFound, "no such path: %q; %s lists what there is", brief(r.URL.Path), documentPath).write(w)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// serve registers an operation. Every error that its function returns becomes a problem.
func serve[I, O any](h huma.API, tag, id, route, summary string, f func(context.Context, *I) (*O, error), more ...func(*huma.Operation)) {
	op := huma.Operation{OperationID: id, Summary: summary, Tags: []string{tag}, MaxBodyBytes: maxBody}
	if _, err := fmt.Sscanf(route, "%s %s", &op.Method, &op.Path); err != nil {
		panic(err) // a constant of ours
	}
	for _, m := range more {
		m(&op)
	}
	huma.Register(h, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := f(ctx, in)
		if err != nil {
			return nil, told(err)
		}
		return out, nil
	})
}

func described(text string) func(*huma.Operation) {
	return func(op *huma.Operation) { op.Description = text }
}

// made is the status of an operation that makes something.
func made(op *huma.Operation) { op.DefaultStatus = http.StatusCreated }

// Inputs that many operations have.
type (
	Named struct {
		Name string `path:"name" maxLength:"253" pattern:"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$" doc:"Name"`
	}
	Trial struct {
		DryRun bool `query:"dryRun" doc:"Ask the API server whether it would do it, and change nothing"`
	}
	Paged struct {
		Limit    int64  `query:"limit" minimum:"1" maximum:"500" default:"100" doc:"How many to look at, at most"`
		Continue string `query:"continue" maxLength:"4096" doc:"What the last answer said to go on with"`
	}
	// network is the L2 domain.
	Domain struct {
		Network string `query:"network" default:"default" maxLength:"63" pattern:"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" doc:"The L2 domain: spec.network of subnets, pools and leases"`
	}
)

func (p Paged) options() *client.ListOptions {
	return &client.ListOptions{Limit: p.Limit, Continue: p.Continue}
}

// answer is a body.
type answer[T any] struct{ Body T }

// List of things, and how to go on if there are more.
type List[T any] struct {
	Items    []T    `json:"items" doc:"May be fewer than the limit, or none, though there are more"`
	Continue string `json:"continue,omitempty" doc:"Send it as continue for what follows; absent: that is all"`
}

// Deletion says what has become of what was to be deleted.
type Deletion struct {
	Name     string `json:"name" doc:"What was deleted"`
	Gone     bool   `json:"gone" doc:"It is gone; else it will be, and waits"`
	WaitsFor string `json:"waitsFor,omitempty" doc:"What it waits for"`
}

func (d Trial) create() *client.CreateOptions {
	return &client.CreateOptions{DryRun: d.all(), FieldManager: manager}
}

func (d Trial) update() *client.UpdateOptions {
	return &client.UpdateOptions{DryRun: d.all(), FieldManager: manager}
}

func (d Trial) all() []string {
	if d.DryRun {
		return []string{metav1.DryRunAll}
	}
	return nil
}

// object metadata of what is made here.
func object(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Labels: map[string]string{v1alpha1.LabelManagedBy: manager}}
}

// wrote says in the log who changed what.
func (a *api) wrote(ctx context.Context, d Trial, what string, o client.Object) {
	if !d.DryRun {
		a.log.Info(what, "kind", fmt.Sprintf("%T", o), "namespace", o.GetNamespace(), "name", o.GetName(), "user", callerOf(ctx).user.Username)
	}
}
