package console

import (
	"runtime/debug"
	"strings"
)

// Version returns what --version prints after the command's name.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown version)"
	}
	return describe(info)
}

// describe returns the version of a build's module, its commit if it was built in a checkout, and
// the version of Go. A build of "go install …@VERSION" knows no commit.
func describe(info *debug.BuildInfo) string {
	version := info.Main.Version
	if version == "" {
		version = "(devel)"
	}
	var details []string
	for _, setting := range info.Settings {
		switch {
		case setting.Key == "vcs.revision":
			details = append(details, "rev "+setting.Value[:min(12, len(setting.Value))])
		case setting.Key == "vcs.modified" && setting.Value == "true":
			details = append(details, "modified")
		}
	}
	details = append(details, info.GoVersion)
	return version + " (" + strings.Join(details, ", ") + ")"
}
