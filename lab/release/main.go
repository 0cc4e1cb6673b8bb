// Command release prepares a release of all modules that are published from this repository. These
// are its steps, which docs/RELEASE.md puts in order:
//
//	release tidy               tidies the go.mod and go.sum files of all modules
//	release set VERSION        sets VERSION where a go.mod file requires another module
//	release tags VERSION       prints the tags that VERSION consists of
//	release proxy DIR VERSION  makes a module proxy in DIR, for GOPROXY=file://DIR
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/mod/semver"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: release tidy | release set VERSION | release tags VERSION | release proxy DIR VERSION")

func run(arguments []string) error {
	root, err := repository()
	if err != nil {
		return err
	}
	if len(arguments) == 1 && arguments[0] == "tidy" {
		return tidy(root)
	}
	if len(arguments) < 2 {
		return errUsage
	}
	version := arguments[len(arguments)-1]
	if semver.Canonical(version) != version {
		return fmt.Errorf("%q is not a version such as v0.1.0", version)
	}
	modules, err := published(root)
	if err != nil {
		return err
	}
	switch {
	case arguments[0] == "set" && len(arguments) == 2:
		return setVersions(modules, version)
	case arguments[0] == "tags" && len(arguments) == 2:
		for _, m := range modules {
			fmt.Println(m.tag(version))
		}
		return nil
	case arguments[0] == "proxy" && len(arguments) == 3:
		return writeProxy(arguments[1], modules, version)
	}
	return errUsage
}

// repository returns the root of the checkout that the working directory is in.
func repository() (string, error) {
	out, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return "", fmt.Errorf("finding the checkout: %w", err)
	}
	return filepath.Clean(strings.TrimSpace(string(out))), nil
}
