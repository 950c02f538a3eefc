package agent

import "time"

// aheadAtMost bounds the DELs of which the API has yet to hear: a pool of no more addresses than pods, all of which go and come again, is
// not to be found full, nor an API server that is late to be asked for more at once.
const aheadAtMost = 8

// ahead are the DELs that are answered before the API has heard of them.
type ahead chan struct{}

// begin when there are not as many as may be, or say after a while that there were all the time.
func (a ahead) begin(patience time.Duration) bool {
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case a <- struct{}{}:
		return true
	case <-late.C:
		return false
	}
}

func (a ahead) end() { <-a }

// stop waits for those that have begun, and has none begin any more.
func (a ahead) stop() {
	for range cap(a) {
		a <- struct{}{}
	}
}
