package rest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Problem is an answer that is no success (RFC 9457). Nothing has changed then, unless Detail says what is left.
type Problem struct {
	Type   string  `json:"type" doc:"Always about:blank: the status says what kind of problem it is" example:"about:blank"`
	Title  string  `json:"title" doc:"The status in words" example:"Conflict"`
	Status int     `json:"status" doc:"The status of the answer" example:"409"`
	Detail string  `json:"detail" doc:"What is wrong, and what to do"`
	Errors []Fault `json:"errors,omitempty" doc:"What is wrong with which field"`

	header http.Header
}

// Fault is what is wrong with one field of a request.
type Fault struct {
	Field  string `json:"field,omitempty" doc:"Path of the field" example:"spec.cidrs[0].cidr"`
	Value  any    `json:"value,omitempty" doc:"What stands there"`
	Detail string `json:"detail" doc:"What is wrong with it"`
	Remedy string `json:"remedy,omitempty" doc:"What to write"`
}

func (p *Problem) Error() string { return p.Detail }

// GetStatus implements huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders implements huma.HeadersError.
func (p *Problem) GetHeaders() http.Header { return p.header }

// ContentType implements huma.ContentTypeFilter.
func (p *Problem) ContentType(string) string { return problemType }

const problemType = "application/problem+json"

func problem(status int, format string, args ...any) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: fmt.Sprintf(format, args...)}
}

// refuse a request for faults that the request itself has.
func refuse(faults ...Fault) *Problem {
	return faulty(http.StatusUnprocessableEntity, faults)
}

func faulty(status int, faults []Fault) *Problem {
	f := faults[0]
	detail := f.Detail
	if f.Field != "" {
		detail = f.Field + ": " + detail
	}
	if f.Remedy != "" {
		detail += "; " + f.Remedy
	}
	p := problem(status, "%s", detail)
	p.Errors = faults
	return p
}

// conflict with what is there already.
func conflict(field string, value any, remedy, format string, args ...any) *Problem {
	return faulty(http.StatusConflict, []Fault{{Field: field, Value: value, Detail: fmt.Sprintf(format, args...), Remedy: remedy}})
}

func (p *Problem) with(key, value string) *Problem {
	if p.header == nil {
		p.header = http.Header{}
	}
	p.header.Set(key, value)
	return p
}

func (p *Problem) write(w http.ResponseWriter) {
	for key, values := range p.header {
		w.Header()[key] = values
	}
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client is gone
}

// The library makes its own errors by these, and the document's schema of them.
func init() {
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		return malformed(status, message, errs)
	}
	huma.DefaultArrayNullable = false // a list of ours is [], never null
	huma.ValidateStrictCasing = true  // as the API server, and so that nothing is ignored
}

// malformed says what the schema has against a request.
func malformed(status int, message string, errs []error) *Problem {
	var faults []Fault
	for _, err := range errs {
		var d huma.ErrorDetailer
		if !errors.As(err, &d) {
			faults = append(faults, Fault{Detail: err.Error()})
			continue
		}
		e := d.ErrorDetail()
		f := Fault{Field: strings.TrimPrefix(e.Location, "body."), Value: brief(e.Value), Detail: e.Message}
		switch {
		case status == http.StatusUnsupportedMediaType:
			f.Field, f.Value, f.Remedy = "header.Content-Type", nil, "send application/json"
		case status == http.StatusBadRequest:
			f.Remedy = "send one JSON object, as /openapi.json describes it"
		case strings.Contains(e.Message, "unexpected property"), strings.Contains(e.Message, "unknown query"):
			f.Remedy = "remove it, or correct its name: /openapi.json lists what there is"
		default:
			f.Remedy = "correct it: /openapi.json says what it takes"
		}
		faults = append(faults, f)
	}
	if len(faults) == 0 {
		if status == http.StatusRequestEntityTooLarge {
			message += "; send less, in several requests"
		}
		return problem(status, "%s", message)
	}
	return faulty(status, faults)
}

// brief is a value short enough to be sent back.
func brief(v any) any {
	const limit = 200
	if s, ok := v.(string); ok && len(s) > limit {
		return strings.ToValidUTF8(s[:limit], "") + "…"
	}
	switch v.(type) {
	case map[string]any, []any:
		return nil // all of what the request said there
	}
	return v
}

// told is the API server's refusal as a problem.
func told(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	var se apierrors.APIStatus
	if !errors.As(err, &se) {
		return problem(http.StatusServiceUnavailable, "the Kubernetes API is not available: %v; try again", err).with("Retry-After", "5")
	}
	s := se.Status()
	switch {
	case s.Code == http.StatusUnprocessableEntity && s.Details != nil && len(s.Details.Causes) > 0:
		var faults []Fault
		for _, c := range s.Details.Causes {
			faults = append(faults, cause(c))
		}
		return faulty(http.StatusUnprocessableEntity, faults)
	case s.Reason == metav1.StatusReasonExpired: // of a list
		return faulty(http.StatusGone, []Fault{{Field: "query.continue", Detail: "the list has changed too much since it was begun", Remedy: "begin it again, without continue"}})
	case apierrors.IsUnauthorized(err):
		return unauthorized("the API server no longer takes the token: " + s.Message)
	case s.Code < 400 || s.Code > 599:
		return problem(http.StatusBadGateway, "the API server said: %s", s.Message)
	case s.Code >= 500:
		return problem(http.StatusServiceUnavailable, "the Kubernetes API is not available: %s; try again", s.Message).with("Retry-After", "5")
	}
	return problem(int(s.Code), "%s", s.Message)
}

// cause splits what the API server says of a field, `Invalid value: "10.6.0.1/16": cidr 10.6.0.1/16 has host bits; write 10.6.0.0/16`.
func cause(c metav1.StatusCause) Fault {
	f := Fault{Field: c.Field, Detail: c.Message}
	if rest, ok := strings.CutPrefix(c.Message, "Invalid value: "); ok {
		d := json.NewDecoder(strings.NewReader(rest))
		var v any
		f.Detail = rest // of a rule about several fields, whose words have the values
		if d.Decode(&v) == nil {
			if text, ok := strings.CutPrefix(rest[d.InputOffset():], ": "); ok {
				f.Value, f.Detail = brief(v), text
			}
		}
	}
	if detail, remedy, ok := strings.Cut(f.Detail, "; "); ok {
		f.Detail, f.Remedy = detail, remedy
	}
	return f
}
