package gcpkms

// ParseURL is parseURL, for tests.
var ParseURL = parseURL
