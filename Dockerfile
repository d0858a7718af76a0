# docker build -t onnx-udfc .
# docker run --rm --network none --user "$(id -u):$(id -g)" -v "$PWD:/work" onnx-udfc in.onnx out.onnx --bits 8
# (--user: the folder is the caller's, and so is what is written into it)
FROM python:3.12-slim AS build
COPY . /source
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source

FROM python:3.12-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/onnx_udfc-*.whl)[images]" && rm -r /wheels && useradd --create-home udfc
USER udfc
WORKDIR /work
ENTRYPOINT ["onnx-udfc"]
CMD ["--help"]
