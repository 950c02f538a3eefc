package agent

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"k8s.io/client-go/rest"
)

// reachPatience is how long an answer of the API server may take to say that it is reached.
const reachPatience = 5 * time.Second

// reaching says how to find out whether the API server answers. Each time by a connection of its own: one that is open already
// may go on for a while where no new one would come through.
func reaching(cfg *rest.Config) (func(context.Context) error, error) {
	tls, err := rest.TLSConfigFor(cfg)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{TLSClientConfig: tls, DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}
	if cfg.Proxy != nil {
		transport.Proxy = cfg.Proxy
	}
	wrapped, err := rest.HTTPWrappersForConfig(cfg, transport)
	if err != nil {
		return nil, err
	}
	server, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return nil, err
	}
	client, address := &http.Client{Transport: wrapped}, server.JoinPath("/readyz").String()
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, reachPatience)
		defer cancel()
		get, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(get)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		switch {
		case resp.StatusCode < 300, resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
			return nil
		}
		return fmt.Errorf("%s: %s", address, resp.Status) // such as that of a control plane node whose etcd has lost the others
	}, nil
}
