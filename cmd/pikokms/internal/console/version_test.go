package console

import (
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVersionNamesTheBuild(t *testing.T) {
	const commit = "c76ece69aed3700dda43fabcdcaefec1d98ee571"
	checkout := func(modified string) []debug.BuildSetting {
		return []debug.BuildSetting{{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: commit}, {Key: "vcs.modified", Value: modified}}
	}
	for _, c := range []struct {
		build, version string
		settings       []debug.BuildSetting
		want           string
	}{
		{"a tag", "v0.1.0", checkout("false"), "v0.1.0 (rev c76ece69aed3, go1.26.11)"},
		{"a changed checkout", "v0.1.0+dirty", checkout("true"), "v0.1.0+dirty (rev c76ece69aed3, modified, go1.26.11)"},
		{"go install", "v0.1.0", nil, "v0.1.0 (go1.26.11)"},
		{"no version control", "(devel)", nil, "(devel) (go1.26.11)"},
		{"a test", "", nil, "(devel) (go1.26.11)"},
	} {
		t.Run(c.build, func(t *testing.T) {
			info := &debug.BuildInfo{GoVersion: "go1.26.11", Settings: c.settings}
			info.Main.Version = c.version
			require.Equal(t, c.want, describe(info))
		})
	}
}
