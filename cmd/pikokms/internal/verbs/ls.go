package verbs

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/look"
	"piko.sh/pikokms/cmd/pikokms/internal/work"
)

func lsCommand() *cobra.Command {
	var e work.Each
	command := &cobra.Command{
		Use:   "ls [--include GLOB]... [--exclude GLOB]... [PLACE]...",
		Short: "List objects with the sizes of their plaintext",
		Long: `Ls lists the objects of folders and buckets, or of this folder if it is told of
none: the size of the plaintext in bytes, whether the object is encrypted, plain,
piko-v2 (Piko's old format), s3-client (AWS's S3 Encryption Client wrote it) or
damaged, and its name. The size is "-" where the
header does not tell it: of what is compressed, signed or damaged, and of Piko's
old format. What the other commands leave out (symbolic links, empty folders) is
named as left-out. It needs no key, and so verifies nothing.`,
		Example: `  pikokms ls photos
  pikokms ls --include '*.enc' 's3://bucket/backups/?region=eu-west-1'`,
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, arguments []string) error {
			ctx := command.Context()
			if len(arguments) == 0 {
				arguments = []string{"."}
			}
			p, err := e.Open(ctx, arguments)
			if err != nil {
				return err
			}
			defer p.Close()
			for _, u := range p.Unlisted {
				console.Say(slog.LevelError, fmt.Sprintf("%s: %s", console.Printable(p.TitleOf(u)), u.Reason), "object", p.TitleOf(u))
			}
			for i := range p.LeftOut() {
				if _, err := fmt.Printf("%14s  %-9s  %s\n", "-", look.KindLeftOut, console.Printable(i.Title())); err != nil {
					return err
				}
			}
			failed := int64(0)
			err = e.ExamineAll(ctx, p, func(x *look.Object) error {
				if x.Err != nil && x.Kind == "" {
					failed++
					console.Say(slog.LevelError, fmt.Sprintf("%s: %s", console.Printable(x.Name), console.Explain(x.Err)), "object", x.Name)
					return nil
				}
				size := "-"
				if n, ok := x.PlaintextSize(); ok {
					size = fmt.Sprint(n)
				}
				_, err := fmt.Printf("%14s  %-9s  %s\n", size, x.Kind, console.Printable(x.Name))
				return err
			})
			if err == nil {
				err = p.Unread(failed, "could not be read")
			}
			return err
		},
	}
	e.Add(command)
	return command
}
