//go:build linux

package doctor

import (
	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/agent/proxy"
	"github.com/berthdev/berth/agent/report"
)

// examineServed looks whether anybody translates what comes in by a vmac. Both at once are no fault: they do the same.
//
//	kube-proxy found | table inet berth-services | finding
//	yes              | no                        | ok
//	either           | as it should be           | ok
//	either           | not so                    | fail
//	no               | no                        | fail, if there are macvlan pods
func examineServed(want *path.Wanted) (found []report.Finding, err error) {
	other, err := (&proxy.Detector{}).Detect()
	if err != nil {
		return nil, err
	}
	own, err := proxy.Open()
	if err != nil {
		return nil, err
	}
	switch {
	case own.There() && want != nil && want.Prefixes != nil:
		for _, fault := range own.Faults(want.Links, want.Prefixes.Services) {
			found = append(found, finding(checkServed, report.Fail, "the agent sets this right within half a minute; if it stays, see its log",
				"table inet berth-services: %s", fault))
		}
		if len(found) == 0 {
			found = append(found, finding(checkServed, report.OK, "", "table inet berth-services: %d frontends", own.Services()))
		}
	case own.There():
		found = append(found, finding(checkServed, report.OK, "", "table inet berth-services: %d frontends; whether it is as it should be is not known", own.Services()))
	case other != proxy.Nobody:
		found = append(found, finding(checkServed, report.OK, "", "%s translates Services", other))
	case want != nil && len(want.Endpoints) == 0:
		found = append(found, finding(checkServed, report.OK, "", "nobody translates Services, and there is no macvlan pod"))
	default:
		found = append(found, finding(checkServed, report.Fail, "see that kube-proxy runs; or where there is none by intent, set --service-proxy=auto of the agent",
			"nobody translates Services for what comes in by a vmac: there are neither rules of kube-proxy nor a table inet berth-services"))
	}
	return found, nil
}
