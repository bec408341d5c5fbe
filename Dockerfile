# The operator and nothing else: one binary, the system's certificate authorities, a user without rights.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin llmkey-operator

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/llmkey-operator /llmkey-operator
USER 65532:65532
ENTRYPOINT ["/llmkey-operator"]
CMD ["run"]
