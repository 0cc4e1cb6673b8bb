package frame_test

import (
	"flag"
	"os"
	"testing"

	"piko.sh/pikokms/internal/race"
)

// TestMain has property tests try fewer values under the race detector.
func TestMain(m *testing.M) {
	flag.Parse()
	if race.Enabled {
		if err := flag.Set("rapid.checks", "30"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
