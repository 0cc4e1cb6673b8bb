// Package settings sets the flags that a command line lacks from the environment and from a file in
// TOML, for the commands of this project.
package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/agnivade/levenshtein"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
)

// Flag is the name of the flag that names the configuration file. An environment variable can name
// it, too.
const Flag = "config"

// Program is a program that takes flags from the environment and from a file.
type Program struct {
	Prefix string // of its environment variables, such as "PIKOKMS_"
	File   string // name of its file in the user's configuration folder

	// Read is a flag that its variable does not set, since the program reads the variable itself.
	Read string

	// Others lists variables that begin with Prefix and belong to no flag. A name that ends with "_"
	// stands for all variables that begin with it.
	Others []string
}

// Variable returns the name of the environment variable of a flag.
func (p *Program) Variable(flag string) string {
	return p.Prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Apply sets the flags of a command that the command line does not have.
func (p *Program) Apply(command *cobra.Command) error {
	if err := p.CheckEnvironment(command.Root()); err != nil {
		return err
	}
	fromFile, err := p.readConfig(command)
	if err != nil {
		return err
	}
	var failures []error
	command.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed || !isSetting(f) {
			return
		}
		name := p.Variable(f.Name)
		values := split(f, os.Getenv(name))
		if len(values) > 0 && f.Name == p.Read {
			return
		}
		if len(values) == 0 {
			name, values = fromFile.path, fromFile.values[f.Name]
		}
		if err := set(command, f, values); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", name, err))
		}
	})
	return errors.Join(failures...)
}

// isSetting reports whether the environment and the file may set a flag.
func isSetting(f *pflag.Flag) bool { return f.Name != Flag && f.Name != "help" && f.Name != "version" }

// CheckEnvironment returns an error if a variable begins with Prefix and nothing reads it. A
// misspelled variable would otherwise be ignored silently.
func (p *Program) CheckEnvironment(root *cobra.Command) error {
	flags, _ := namesAt(root)
	known := append([]string{p.Variable(Flag)}, p.Others...)
	for name := range flags {
		known = append(known, p.Variable(name))
	}
	// Kubernetes sets variables for a Service of the program's name (Kubernetes documentation,
	// "Discovering services").
	ofService := regexp.MustCompile("^" + p.Prefix + "(SERVICE|PORT)(_|$)")
	var failures []error
	for _, variable := range slices.Sorted(slices.Values(os.Environ())) {
		name, value, _ := strings.Cut(variable, "=")
		isKnown := func(k string) bool { return name == k || strings.HasSuffix(k, "_") && strings.HasPrefix(name, k) }
		if strings.HasPrefix(name, p.Prefix) && value != "" && !ofService.MatchString(name) && !slices.ContainsFunc(known, isKnown) {
			failures = append(failures, fmt.Errorf("nothing reads the environment variable %s%s", name, nearestTo(name, known)))
		}
	}
	return errors.Join(failures...)
}

// nearestTo returns the end of an error's text that suggests the known name most like name. It is
// empty if none is like it.
func nearestTo(name string, known []string) string {
	nearest, distance := "", len(name)
	slices.Sort(known)
	for _, other := range known {
		if d := levenshtein.ComputeDistance(name, other); d < distance {
			nearest, distance = other, d
		}
	}
	if nearest == "" {
		return ""
	}
	return fmt.Sprintf("; the nearest is %q", nearest)
}

// split splits the text of an environment variable into the values of a flag.
func split(f *pflag.Flag, text string) []string {
	switch _, several := f.Value.(pflag.SliceValue); {
	case text == "":
		return nil
	case !several:
		return []string{text}
	case f.Name == "key" || f.Name == "to":
		return strings.Fields(text)
	}
	return slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return strings.TrimSpace(line) == "" })
}

// configured is the annotation of a flag that the environment or the file has set.
const configured = "pikokms_configured"

// set sets a flag to values, as the command line would, and marks it as configured.
func set(command *cobra.Command, f *pflag.Flag, values []string) error {
	if len(values) == 0 {
		return nil
	}
	f.Annotations = maps.Clone(f.Annotations)
	if f.Annotations == nil {
		f.Annotations = make(map[string][]string, 1)
	}
	f.Annotations[configured] = values
	for _, value := range values {
		if err := command.Flags().Set(f.Name, value); err != nil {
			return err
		}
	}
	return nil
}

// IsGiven reports whether a flag is given on the command line, or is a switch that the environment
// or the file turns on. What else they set is not given: it is a default for all command lines.
func IsGiven(flags *pflag.FlagSet, name string) bool {
	f := flags.Lookup(name)
	if f == nil || !f.Changed {
		return false
	}
	if _, ok := f.Annotations[configured]; ok {
		return f.Value.Type() == "bool" && f.Value.String() == "true"
	}
	return true
}

// fileConfig is what a configuration file sets for one command.
type fileConfig struct {
	path   string
	values map[string][]string // by flag
}

// readConfig reads the configuration file, if there is one.
func (p *Program) readConfig(command *cobra.Command) (*fileConfig, error) {
	path, named := p.Path(command)
	c := &fileConfig{path: path, values: make(map[string][]string)}
	if path == "" {
		return c, nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	table := make(map[string]any)
	// Editors and shells of Windows write byte order marks, and UTF-16.
	if text, _, err = transform.Bytes(unicode.BOMOverride(transform.Nop), text); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	if err := toml.Unmarshal(text, &table); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	if err := c.take(command.Root(), command, table); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// Path returns the path of the file, and whether the user named it.
func (p *Program) Path(command *cobra.Command) (path string, named bool) {
	if f := command.Flags().Lookup(Flag); f.Changed {
		return f.Value.String(), true
	}
	if path := os.Getenv(p.Variable(Flag)); path != "" {
		return path, true
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", false // There is no such folder, as in a container without HOME.
	}
	return filepath.Join(dir, p.File), false
}

// take reads the table of the command at, and keeps the values that apply to the command that runs.
// The table of an inner command overrides those around it. The tables of other commands are only
// checked.
func (c *fileConfig) take(at, running *cobra.Command, table map[string]any) error {
	flags, commands := namesAt(at)
	concerned := false
	for above := running; above != nil; above = above.Parent() {
		concerned = concerned || above == at
	}
	tables := make(map[string]map[string]any)
	for _, name := range slices.Sorted(maps.Keys(table)) {
		inner, isTable := table[name].(map[string]any)
		switch {
		case isTable && commands[name] != nil:
			tables[name] = inner
			continue
		case isTable || !flags[name]:
			return unknownNameError(at, name, isTable, flags, commands)
		}
		values, err := valuesOf(table[name])
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		if concerned {
			c.values[name] = values
		}
	}
	for name, inner := range tables {
		if err := c.take(commands[name], running, inner); err != nil {
			return err
		}
	}
	return nil
}

// namesAt returns the flags of a command and of all commands below it, and the commands right below
// it.
func namesAt(at *cobra.Command) (flags map[string]bool, commands map[string]*cobra.Command) {
	flags, commands = make(map[string]bool), make(map[string]*cobra.Command)
	add := func(f *pflag.Flag) {
		if isSetting(f) {
			flags[f.Name] = true
		}
	}
	at.Flags().VisitAll(add)
	at.InheritedFlags().VisitAll(add)
	for _, below := range at.Commands() {
		commands[below.Name()] = below
		deeper, _ := namesAt(below)
		maps.Copy(flags, deeper)
	}
	return flags, commands
}

// unknownNameError returns the error for a name that is neither a flag nor a command of the table.
func unknownNameError(at *cobra.Command, name string, isTable bool, flags map[string]bool, commands map[string]*cobra.Command) error {
	known := slices.Collect(maps.Keys(flags))
	kind := "flag"
	if isTable {
		kind, known = "command", slices.Collect(maps.Keys(commands))
	}
	owner := ""
	if at.HasParent() {
		owner = " of " + at.CommandPath()
	}
	return fmt.Errorf("%q is no %s%s%s", name, kind, owner, nearestTo(name, known))
}

// valuesOf returns the values of a flag as they are on a command line.
func valuesOf(value any) ([]string, error) {
	switch v := value.(type) {
	case string:
		return []string{v}, nil
	case bool:
		return []string{strconv.FormatBool(v)}, nil
	case int64:
		return []string{strconv.FormatInt(v, 10)}, nil
	case float64:
		return []string{strconv.FormatFloat(v, 'g', -1, 64)}, nil
	case []any:
		var values []string
		for _, element := range v {
			inner, err := valuesOf(element)
			if err != nil {
				return nil, err
			}
			values = append(values, inner...)
		}
		return values, nil
	}
	return nil, errors.New("it is not text, a number, true or false, or a list of these")
}
