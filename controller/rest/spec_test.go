package rest

import (
	"bytes"
	"context"
	"net/http"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
)

// spec is the committed document, read by a library that has not made it.
type spec struct{ router routers.Router }

func readSpec(t testing.TB) *spec {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		t.Fatalf("openapi.json is no OpenAPI document: %v", err)
	}
	router, err := legacy.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return &spec{router}
}

// check that an answer is one that the document describes for that request.
func (s *spec) check(t testing.TB, r *http.Request, resp *http.Response, body []byte) {
	t.Helper()
	r = r.Clone(context.Background())
	r.URL.Scheme, r.URL.Host, r.Host = "", "", ""
	route, params, err := s.router.FindRoute(r)
	if err != nil {
		t.Errorf("%s %s is not in the document: %v", r.Method, r.URL, err)
		return
	}
	err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route},
		Status:                 resp.StatusCode, Header: resp.Header,
		Body:    readCloser{bytes.NewReader(body)},
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	})
	if err != nil {
		t.Errorf("%s %s: the answer is not as the document says: %v\n%s", r.Method, r.URL, err, body)
	}
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

func init() {
	openapi3filter.RegisterBodyDecoder(problemType, openapi3filter.JSONBodyDecoder)
}
