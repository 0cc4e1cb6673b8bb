// Package config sets flags from the environment and from a configuration file.
package config

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

	"piko.sh/pikokms/cmd/pikokms/internal/keys"
)

// Manual explains where flags come from that the command line does not have. The root command's
// help has it, and so has the man page.
const Manual = `
Configuration:
  A flag that the command line does not have is taken from the environment:
  --kms-timeout from PIKOKMS_KMS_TIMEOUT, and so on. Several values of one flag
  are separated by newlines, KEYs also by spaces. A variable PIKOKMS_… that no flag
  has is refused.
  What the environment does not have either is taken from a file in TOML: the one
  that --config or PIKOKMS_CONFIG names, or else pikokms.toml in the user's
  configuration folder (~/.config on Linux). A flag is a name in it, without its
  dashes, for every command that has the flag, or for the command alone whose
  table it is in:
    key = "awskms://alias/backups?region=eu-west-1"
    jobs = 16
    [encrypt]
    compress = "zstd"
    [keys.check]
    role = "writer"
  Traces and metrics go where the variables OTEL_EXPORTER_OTLP_… of OpenTelemetry
  say, and nowhere without them. Traces number objects; --trace-names names them.
`

const (
	Flag       = "config"
	configName = "pikokms.toml"
)

// Variable returns the name of the environment variable of a flag.
func Variable(flag string) string {
	return "PIKOKMS_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Apply sets the flags of a command that the command line does not have.
func Apply(command *cobra.Command) error {
	if err := CheckEnvironment(command.Root()); err != nil {
		return err
	}
	fromFile, err := readConfig(command)
	if err != nil {
		return err
	}
	var failures []error
	command.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == Flag || f.Name == "help" || f.Name == "version" {
			return
		}
		name := Variable(f.Name)
		values := split(f, os.Getenv(name))
		if len(values) > 0 && name == keys.Variable {
			return // parseKeys takes them from there
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

// otherVariables are variables that this command does not read, and that an environment may hold
// all the same: those of pikokms-batch, and those of the project's tests, which run this command.
var otherVariables = []string{
	"PIKOKMS_AZURE_URL", "PIKOKMS_BOOTSTRAP", "PIKOKMS_ENCRYPTION_CLI", "PIKOKMS_FIGURES", "PIKOKMS_GCS_URL", "PIKOKMS_GORELEASER",
	"PIKOKMS_JARS", "PIKOKMS_LOCALSTACK_URL", "PIKOKMS_NODE_MODULES", "PIKOKMS_OPENBAO", "PIKOKMS_PYTHON", "PIKOKMS_REQUIRE_DOCKER",
	"PIKOKMS_SOAK_PROFILE", "PIKOKMS_TASKS", "PIKOKMS_TEST_JOURNAL", "PIKOKMS_TEST_LONG_WORK", "PIKOKMS_TEST_MILLION",

	"PIKOKMS_ALLOW_LOSSES", "PIKOKMS_ALLOW_PIKO_V2", "PIKOKMS_BIND_OBJECT_NAMES", "PIKOKMS_BIND_UNBOUND",
	"PIKOKMS_DATA_KEY_CACHE", "PIKOKMS_JOB", "PIKOKMS_MB_PER_SECOND", "PIKOKMS_OLD_KEYS", "PIKOKMS_REQUESTER_PAYS",
}

// foreignVariables are the variables of the gateway, and those that Kubernetes sets for a Service
// named pikokms (Kubernetes documentation, "Discovering services").
var foreignVariables = regexp.MustCompile(`^PIKOKMS_((SERVICE|PORT)(_|$)|GATEWAY_)`)

// CheckEnvironment returns an error if a variable has the form of a flag's and no flag has its
// name: what is misspelled would have no effect, without a word.
func CheckEnvironment(root *cobra.Command) error {
	flags, _ := NamesAt(root)
	known := append([]string{Variable(Flag)}, otherVariables...)
	for name := range flags {
		known = append(known, Variable(name))
	}
	var failures []error
	for _, variable := range slices.Sorted(slices.Values(os.Environ())) {
		name, value, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, "PIKOKMS_") || value == "" || slices.Contains(known, name) || foreignVariables.MatchString(name) {
			continue
		}
		failures = append(failures, fmt.Errorf("nothing reads the environment variable %s%s", name, nearestTo(name, known)))
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

// IsGiven reports whether a flag shows that the command line is about several objects. A flag that
// is set in the environment or in a file does so only if it is a switch that is turned on.
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
func readConfig(command *cobra.Command) (*fileConfig, error) {
	path, named := Path(command)
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
func Path(command *cobra.Command) (path string, named bool) {
	if f := command.Flags().Lookup(Flag); f.Changed {
		return f.Value.String(), true
	}
	if path := os.Getenv(Variable(Flag)); path != "" {
		return path, true
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", false // There is no such folder, as in a container without HOME.
	}
	return filepath.Join(dir, configName), false
}

// take takes the values of a table, which is that of a command. The values of a command's table go
// before those of the tables around it. The tables of other commands are checked, too.
func (c *fileConfig) take(at, wanted *cobra.Command, table map[string]any) error {
	flags, commands := NamesAt(at)
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

// NamesAt returns the flags of a command and of all commands below it, and the commands right below
// it.
func NamesAt(at *cobra.Command) (flags map[string]bool, commands map[string]*cobra.Command) {
	flags, commands = make(map[string]bool), make(map[string]*cobra.Command)
	add := func(f *pflag.Flag) {
		if f.Name != Flag && f.Name != "help" && f.Name != "version" {
			flags[f.Name] = true
		}
	}
	at.Flags().VisitAll(add)
	at.InheritedFlags().VisitAll(add)
	for _, below := range at.Commands() {
		commands[below.Name()] = below
		deeper, _ := NamesAt(below)
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
	of := ""
	if at.HasParent() {
		of = " of " + at.CommandPath()
	}
	return fmt.Errorf("%q is no %s%s%s", name, kind, of, nearestTo(name, known))
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
			one, err := valuesOf(element)
			if err != nil {
				return nil, err
			}
			values = append(values, one...)
		}
		return values, nil
	}
	return nil, errors.New("it is not text, a number, true or false, or a list of these")
}
