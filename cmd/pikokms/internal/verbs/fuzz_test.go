package verbs

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/cmd/pikokms/internal/work"
)

// FuzzArguments parses command lines, one argument a line, without running them.
func FuzzArguments(f *testing.F) {
	for _, line := range []string{
		"encrypt -k local:dev.key -c tenant=42 -o report.enc README.md",
		"decrypt -k awskms://alias/uploads?region=eu-west-1&profile=ops -c tenant --decode --max-keys 17 in",
		"decrypt -k awskms-discovery:?accounts=111122223333,444455556666&region=eu-west-1",
		"encrypt -k awskms:///arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab --compress zstd",
		"rewrap -k local:old.key?name=a&padding=pkcs1 --to local:///dev.key?hash=sha512 --in-place photos.enc",
		"cat -k local:dev.key --range 0-99 report.enc", "cat --range -5 x", "cat --range 5- x", "cat --range 18446744073709551615-",
		"ls --include **/*.enc --exclude a?b s3://bucket/backups/?region=eu-west-1", "inspect --json -", "verify --report r.json --dry-run a b",
		"keygen -o dev.key", "encrypt -o a -o b", "--version", "help encrypt", "encrypt --", "-k", "encrypt -c =x -c x=1 -c x=2", "decrypt --kms-timeout -5s",
	} {
		f.Add(strings.ReplaceAll(line, " ", "\n"))
	}
	f.Fuzz(func(t *testing.T, lines string) {
		root := New()
		command, rest, err := root.Find(strings.Split(lines, "\n"))
		if err != nil {
			require.NotEmpty(t, console.Explain(err))
			return
		}
		if err := command.ParseFlags(rest); err != nil {
			require.NotContains(t, console.Explain(err), "\n")
			return
		}
		_ = command.ValidateArgs(command.Flags().Args()) // either answer is right
		command.Flags().Visit(func(flag *pflag.Flag) {
			values, several := flag.Value.(pflag.SliceValue)
			if !several {
				fuzzValue(t, flag)
				return
			}
			switch flag.Name {
			case "key", "to":
				ks, err := keys.Parse(values.GetSlice(), time.Second, true)
				require.Equal(t, err == nil, len(ks) > 0)
				for _, k := range ks {
					require.Contains(t, []string{"awskms", "awskms-discovery", "local"}, k.Service.Scheme)
				}
			case "context":
				o := options{pairs: values.GetSlice()}
				pairs, err := o.requiredContext()
				if err == nil {
					require.Len(t, values.GetSlice(), len(pairs)+len(o.names))
				}
			case "include", "exclude":
				if all, err := work.ParseGlobs(values.GetSlice()); err == nil {
					all.Match("a/b/c.enc")
				}
			}
		})
	})
}

// fuzzValue tries the value of a flag that holds one.
func fuzzValue(t *testing.T, flag *pflag.Flag) {
	require.Error(t, flag.Value.Set(flag.Value.String()), "--%s can be given twice", flag.Name)
	if flag.Name != "range" {
		return
	}
	r, err := parseRange(flag.Value.String())
	if err != nil {
		return
	}
	for _, size := range []int64{0, 1, 100, 1 << 40} {
		offset, length, err := r.resolve(size)
		if err == nil {
			require.True(t, offset >= 0 && length >= 0 && offset+length <= size, "%+v of %d", r, size)
		}
	}
}
