// Package versitygw is the module of an S3 server for tests, so that neither the library's users
// nor the workspace have its dependencies. Tests run its command serve.
package versitygw
