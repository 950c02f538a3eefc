package agent

import (
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"

	"github.com/berthdev/berth/delegate"
)

// maxNote is the limit of an event's note (k8s.io/api/events/v1), in bytes.
const maxNote = 1024

// report a failed ADD on the pod.
func (a *Agent) report(pod *corev1.Pod, reason string, err error) { a.event(pod, reason, err.Error()) }

// warn of something that an ADD went past.
func (a *Agent) warn(pod *corev1.Pod, reason, note string) {
	a.log.Warn(note, "pod", pod.Namespace+"/"+pod.Name)
	a.event(pod, reason, note)
}

func (a *Agent) event(pod *corev1.Pod, reason, note string) {
	if pod == nil {
		return
	}
	a.events.Eventf(pod, nil, corev1.EventTypeWarning, reason, "AssignAddress", "%s", shortened(note))
}

// shortened to what the API takes, between letters.
func shortened(note string) string {
	if len(note) <= maxNote {
		return note
	}
	note = note[:maxNote-3]
	for !utf8.ValidString(note) {
		note = note[:len(note)-1]
	}
	return note + "..."
}

// podOf a request whose configuration cannot be read, if the arguments tell; nil if not.
func (a *Agent) podOf(c call) *corev1.Pod {
	args, err := delegate.ParseArgs(c.Args)
	if err != nil {
		return nil
	}
	pod, err := a.pods.pod(c, args)
	if err != nil {
		return nil
	}
	return pod
}
