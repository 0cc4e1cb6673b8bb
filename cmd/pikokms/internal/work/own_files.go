package work

import (
	"os"

	"piko.sh/pikokms/cmd/pikokms/internal/config"
)

// ownFiles returns the files that the command line itself uses: those of its keys, the journal, the
// report and the configuration. They may be in a folder that is worked on. If a key file were
// encrypted under its own key, nothing could open it again. Commands without keys only look at
// files, and leave none out.
func (e *Each) ownFiles() []os.FileInfo {
	if len(e.keys) == 0 {
		return nil
	}
	configuration, _ := config.Program.Path(e.command)
	paths := []string{e.resume, e.report, configuration}
	for _, k := range e.keys {
		paths = append(paths, k.Files...)
	}
	var own []os.FileInfo
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			own = append(own, info)
		}
	}
	return own
}
