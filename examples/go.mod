module piko.sh/pikokms/examples

go 1.26.0

require piko.sh/pikokms v0.0.0

replace piko.sh/pikokms => ../
