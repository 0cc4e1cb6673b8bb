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

// Flag is the flag that names the file. A variable of the environment does so, too.
const Flag = "config"

// Program is a program whose flags are set so.
type Program struct {
	Prefix string // of its environment variables, such as "PIKOKMS_"
	File   string // name of its file in the user's configuration folder

	// Read is a flag whose variable the program reads by itself, which then does not set the flag.
	Read string

	// Others are variables that begin with Prefix and are those of no flag. One that ends with "_"
	// stands for all that begin with it.
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

// CheckEnvironment returns an error if a variable has the form of a flag's and no flag has its
// name: what is misspelled would have no effect, without a word.
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

// nearestTo names the one of several names that is most like another, if any is.
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

// configured is what marks a flag that the command line does not have.
const configured = "pikokms_configured"

// set gives a flag values.
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

// IsGiven reports whether the command line has a flag, or the environment or the file turns it on,
// if it is a switch. What else they set is not given: it is a default for all command lines.
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

// take takes the values of a table, which is that of a command. The values of a command's table go
// before those of the tables around it. The tables of other commands are checked, too.
func (c *fileConfig) take(at, wanted *cobra.Command, table map[string]any) error {
	flags, commands := namesAt(at)
	concerned := false
	for above := wanted; above != nil; above = above.Parent() {
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
			return unknown(at, name, isTable, flags, commands)
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
		if err := c.take(commands[name], wanted, inner); err != nil {
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

// unknown returns the error of a name that a table may not have.
func unknown(at *cobra.Command, name string, isTable bool, flags map[string]bool, commands map[string]*cobra.Command) error {
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
