module piko.sh/pikokms/bench

go 1.26.0

require (
	filippo.io/age v1.3.2
	github.com/minio/sio v0.4.1
	piko.sh/pikokms v0.0.0
)

require (
	filippo.io/hpke v0.4.0 // indirect
	github.com/awnumar/memcall v0.4.0 // indirect
	golang.org/x/crypto v0.55.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace piko.sh/pikokms => ../
