# The operator and nothing else: one static binary, which has the time zones in it, and the certificate authorities. `make e2e`
# packs the same two files and runs them on a real node.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends musl-tools
WORKDIR /src
# The pinned toolchain and the target, before the sources: they change less often.
COPY rust-toolchain.toml ./
RUN rustup target add "$(uname -m)-unknown-linux-musl"
COPY . .
RUN target="$(uname -m)-unknown-linux-musl" && \
    cargo build --release --locked --bin llmkey-operator --target "$target" && \
    cp "target/$target/release/llmkey-operator" /llmkey-operator

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /llmkey-operator /llmkey-operator
USER 65532:65532
ENTRYPOINT ["/llmkey-operator"]
CMD ["run"]
