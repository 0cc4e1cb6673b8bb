package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"piko.sh/pikokms"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/s3ec"
	"piko.sh/pikokms/s3storage"
	"piko.sh/pikokms/service"
)

// What a job does to each object.
const (
	encrypt = "encrypt"
	rewrap  = "rewrap"
	verify  = "verify"
)

// bindUnbound is the environment variable that makes rewrap bind objects to their names.
const bindUnbound = "PIKOKMS_BIND_UNBOUND"

// allowLosses is the environment variable that names what objects may lose.
const allowLosses = "PIKOKMS_ALLOW_LOSSES"

// jobArgument is the user argument of a job, in requests of schema 2.0, that names what it does.
const jobArgument = "job"

// function is the Lambda function. It is safe for concurrent use.
type function struct {
	job           string // of requests that do not name one
	key           *key   // that objects are to be under
	recovery      []*key // that objects are to be under as well
	old           []*key // that objects may be under until now
	bound         string // the bucket's name in the encryption context; empty if objects are not bound to names
	bindUnbound   bool   // whether objects that are bound to no name may become so
	pikoV2        bool
	losses        []string // that a replacement may have
	requesterPays bool

	client  *s3.Client
	options []pikokms.Option
	pace    pace
	err     error // what is wrong with the configuration

	mu      sync.Mutex
	buckets map[string]*bucket // by name
}

// bucket is a bucket, and the host of its objects.
type bucket struct {
	name    string
	client  *s3.Client
	storage *s3storage.Storage
	host    *pikokms.Host
}

// newFunction configures the function from its environment. It asks no service. If the
// configuration is wrong, each task fails and its reason names the mistake, since the job's report
// shows reasons.
func newFunction(ctx context.Context, environment func(string) string) *function {
	f := &function{job: environment("PIKOKMS_JOB"), bound: environment("PIKOKMS_BIND_OBJECT_NAMES"), buckets: make(map[string]*bucket)}
	if err := f.configure(ctx, environment); err != nil {
		f.err = fmt.Errorf("the function's configuration: %w", err)
	}
	return f
}

func (f *function) configure(ctx context.Context, environment func(string) string) error {
	loaded, err := config.LoadDefaultConfig(ctx, config.WithLogger(awskms.Logger))
	if err != nil {
		return err
	}
	var failures []error
	refuse := func(name, want string) {
		failures = append(failures, fmt.Errorf("%s is %q; it is %s", name, environment(name), want))
	}
	isTrue := func(name string) bool {
		value, err := strconv.ParseBool(cmp.Or(environment(name), "false"))
		if err != nil {
			refuse(name, "true or false")
		}
		return value
	}
	f.requesterPays = isTrue("PIKOKMS_REQUESTER_PAYS")
	f.client = s3.NewFromConfig(loaded, func(o *s3.Options) {
		o.DisableLogOutputChecksumValidationSkipped = true // it would be a line for each old object
		o.UseARNRegion = true
		if f.requesterPays {
			o.APIOptions = append(o.APIOptions, smithyhttp.SetHeaderValue("x-amz-request-payer", "requester"))
		}
	})
	if f.bindUnbound = isTrue(bindUnbound); f.bindUnbound && f.bound == "" {
		refuse(bindUnbound, "for objects that PIKOKMS_BIND_OBJECT_NAMES binds, which is not set")
	}
	known := []string{s3storage.LossACL, s3storage.LossChecksum, s3storage.LossLock, s3storage.LossMetadata, s3storage.LossTags}
	f.losses = strings.Fields(environment(allowLosses))
	if slices.ContainsFunc(f.losses, func(kind string) bool { return !slices.Contains(known, kind) }) {
		refuse(allowLosses, "some of "+strings.Join(known, ", ")+", separated by spaces")
	}
	if f.pikoV2 = isTrue("PIKOKMS_ALLOW_PIKO_V2"); f.pikoV2 {
		f.options = append(f.options, pikokms.AllowPikoV2())
	}
	// Half of the function's memory is for the objects of AWS's S3 Encryption Client.
	client := s3ec.Config{AllowUnauthenticated: isTrue("PIKOKMS_ALLOW_UNAUTHENTICATED_S3_CLIENT")}
	if megabytes, err := strconv.ParseInt(environment("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"), 10, 32); err == nil && megabytes > 0 {
		client.MaxMemory = megabytes << 20 / 2
	}
	f.options = append(f.options, pikokms.AllowS3EncryptionClient(client))
	var calls service.Config
	if text := environment("PIKOKMS_DATA_KEY_CACHE"); text != "" {
		age, err := time.ParseDuration(text)
		if err != nil || age <= 0 {
			refuse("PIKOKMS_DATA_KEY_CACHE", "a duration, such as 5m")
		}
		calls.Cache = &service.CacheLimits{MaxAge: age}
	}
	if text := environment("PIKOKMS_MB_PER_SECOND"); text != "" {
		rate, err := strconv.ParseFloat(text, 64)
		if err != nil || !(rate > 0) {
			refuse("PIKOKMS_MB_PER_SECOND", "a number above 0")
		}
		f.pace.stated = rate * 1e6
	}
	if f.bound != "" {
		f.options = append(f.options, pikokms.BindObjectName(f.bound))
	}
	if f.job != "" {
		if _, err := f.jobOf(nil); err != nil {
			refuse("PIKOKMS_JOB", jobNames)
		}
	}
	failures = append(failures, f.openKeys(ctx, environment, loaded.RetryMaxAttempts, calls))
	return errors.Join(failures...)
}

// openKeys opens the KEYs.
func (f *function) openKeys(ctx context.Context, environment func(string) string, attempts int, calls service.Config) error {
	var failures []error
	var e message.Encrypter
	var d message.Decrypter
	open := func(variable string) (keys []*key, services []service.Service) {
		for _, text := range strings.Fields(environment(variable)) {
			k, err := openKey(ctx, text, attempts)
			if err != nil {
				failures = append(failures, fmt.Errorf("%s: %w", variable, err))
				continue
			}
			keys, services = append(keys, k), append(services, service.New(k.provider, calls))
		}
		return keys, services
	}
	if n := len(strings.Fields(environment("PIKOKMS_KEY"))); n != 1 {
		failures = append(failures, fmt.Errorf("PIKOKMS_KEY names %d KEYs, and objects are put under one; PIKOKMS_RECOVERY_KEYS names further ones", n))
	} else if keys, services := open("PIKOKMS_KEY"); len(keys) == 1 {
		f.key, e.Keyring = keys[0], services[0]
		d.Keyrings = append(d.Keyrings, services[0])
	}
	var services []service.Service
	f.recovery, services = open("PIKOKMS_RECOVERY_KEYS")
	for _, s := range services { // that decrypt nothing here
		e.Recipients = append(e.Recipients, s)
	}
	f.old, services = open("PIKOKMS_OLD_KEYS")
	for _, s := range services {
		d.Keyrings = append(d.Keyrings, s)
	}
	f.options = append(f.options, pikokms.WithMessages(e, d))
	return errors.Join(failures...)
}

// readable returns the KEYs that objects may be under.
func (f *function) readable() []*key { return append([]*key{f.key}, f.old...) }

// bucket returns the bucket of a name, with its host.
func (f *function) bucket(name string) (*bucket, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b := f.buckets[name]; b != nil {
		return b, nil
	}
	b := &bucket{name: name, client: f.client, storage: s3storage.New(f.client, name, s3storage.WithAllowedLosses(f.losses...))}
	var err error
	if b.host, err = pikokms.New(append(f.options[:len(f.options):len(f.options)], pikokms.WithStorage(b.storage))...); err != nil {
		return nil, fmt.Errorf("the function's configuration: %w", err)
	}
	f.buckets[name] = b
	return b, nil
}

const jobNames = encrypt + ", " + rewrap + " or " + verify

// jobOf returns what a request does. The user argument of its job goes before the configuration.
func (f *function) jobOf(arguments map[string]string) (string, error) {
	job := f.job
	for name, value := range arguments {
		if name != jobArgument {
			return "", fmt.Errorf("the job has the user argument %.100q; the only one is %q", name, jobArgument)
		}
		job = value
	}
	switch job {
	case encrypt, rewrap, verify:
		return job, nil
	case "":
		return "", fmt.Errorf("neither PIKOKMS_JOB nor the job's user argument %q says what to do: %s", jobArgument, jobNames)
	}
	return "", fmt.Errorf("the job %.100q is not known; it is %s", job, jobNames)
}
