package verbs

import (
	"errors"

	"github.com/spf13/cobra"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/cmd/pikokms/internal/web"
	"piko.sh/pikokms/cmd/pikokms/internal/work"
	"piko.sh/pikokms/service"
)

func serveCommand() *cobra.Command {
	var o options
	var s web.Server
	var at places.Opener
	command := &cobra.Command{
		Use:   "serve [-k KEY]... [-c NAME=VALUE]... [--address HOST:PORT] PLACE",
		Short: "Show an encrypted folder or bucket in a browser",
		Long: `Serve shows PLACE, a folder, a bucket or one object, over HTTP until it is
interrupted: a page for each folder, which plays videos and sounds and shows
pictures, and under their names the objects, decrypted, and in ranges, as players
and downloaders ask for them. Nothing can be changed. Nothing decrypted is stored,
and browsers are told not to. Each object's data key is asked for once, and kept
for 5 minutes.

It listens on this computer alone, and whoever can log in there can read all of it.
Any other address needs --allow-remote: put a proxy before it that knows who may
read, and encrypts what it sends. A request for another host than localhost or an
IP address is refused, as those of web pages are that reach for a local server,
unless --host names the host.

Ranges are checked frame by frame, as by cat --range. What has none, because it is
signed or compressed, is sent from its beginning. An answer that breaks off is not
the whole object. What is not encrypted is listed, and not shown.`,
		Example: `  pikokms serve -k local:dev.key photos
  pikokms serve -k 'awskms://alias/backups?region=eu-west-1' --suffix .enc \
      --address 127.0.0.1:9000 's3://bucket/backups/?region=eu-west-1'`,
		Args:                  cobra.ExactArgs(1),
		DisableFlagsInUseLine: true,
		RunE: func(command *cobra.Command, arguments []string) error {
			ctx := command.Context()
			r, err := o.openReading(ctx, nil)
			if err != nil {
				return err
			}
			defer keys.CloseAll(r.keys)
			for _, k := range r.keys {
				k.CacheDataKeys(service.CacheLimits{})
			}
			p, err := at.Open(ctx, arguments[0])
			if err != nil {
				return err
			}
			defer p.Close()
			if p.IsStandardInput() {
				return console.Usage(errors.New("standard input cannot be served; name a file, a folder or a bucket"))
			}
			work.AwaitEnd(ctx)
			return s.Run(ctx, &web.View{Place: p, Host: r.host, Pairs: r.pairs, Limits: o.limits, Suffix: s.Suffix})
		},
	}
	o.addKeys(command, keyToDecrypt, pairToDecrypt)
	flags := command.Flags()
	flags.StringVar(&s.Address, "address", web.DefaultAddress, "the `HOST:PORT` to listen on; port 0 is any that is free")
	flags.BoolVar(&s.Remote, "allow-remote", false, "listen on an address that other computers reach")
	console.ShowInShortHelp(flags, "address", "allow-remote")
	console.AddTopics(command, "places")
	flags.StringArrayVar(&s.Hosts, "host", nil, "also answer requests for this host `NAME`; may be repeated")
	flags.StringVar(&s.Suffix, "suffix", "", "show only objects whose names end in this `SUFFIX`, and without it")
	console.ShowInShortHelp(flags, "suffix")
	o.addReading(command)
	at.AddTimeout(command)
	return command
}
