module piko.sh/piko

go 1.26.0
