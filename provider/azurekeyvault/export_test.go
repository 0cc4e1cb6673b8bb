package azurekeyvault

// ParseURL is parseURL, for tests.
var ParseURL = parseURL
