# The command alone, for releases and for who builds it: docs/RELEASE.md says how. Nothing is
# downloaded. The build folder has the roots that TLS connections to AWS are checked with.
FROM scratch
# A release sets TARGETPLATFORM and has the binary of each platform in a folder of that name.
ARG TARGETPLATFORM
ARG BINARY=$TARGETPLATFORM/pikokms
COPY build/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY $BINARY /usr/bin/pikokms
# It is no user's of the host: a mounted folder is written to with --user "$(id -u):$(id -g)".
USER 65532:65532
WORKDIR /work
ENTRYPOINT ["/usr/bin/pikokms"]
