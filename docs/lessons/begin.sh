# shellcheck shell=bash
# Read this into your shell before each lesson, in the root of the clone: . docs/lessons/begin.sh
# The stack of the lessons is apart from yours: another name, another port, none of its settings.
[ -f compose.yaml ] && [ -d docs/lessons ] || {
    echo "begin.sh: first cd to the root of the clone"
    return 1
}
export COMPOSE_PROJECT_NAME=lesson HTTP_PORT=8088 URL=http://127.0.0.1:8088
export STACK_TLS='' HTPASSWD='' ALLOWED_HOSTS='' RATE_LIMIT='' CONNECTION_LIMIT=''
unset STACK_ENGINE STACK_REGISTRY COMPOSE_FILE COMPOSE_PROFILES COMPOSE_ENV_FILES
case ${DOCKER_HOST:-} in *stack-node-*) unset DOCKER_HOST ;; esac # of lesson 11
case $PATH in "$PWD"/.venv/bin:*) ;; *) PATH=$PWD/.venv/bin:$PATH ;; esac
mkdir -p lesson
# An image with Python, Flask and gunicorn, to build on without a network: the example's own, but for
# the labels by which Compose would take what is built on it for its own.
export IMAGE=lesson-python:1
if ! docker image inspect "$IMAGE" >/dev/null 2>&1; then
    echo "Making the image that lessons build on. Once; see lesson/begin.log"
    {
        python -m stack up &&
            printf 'FROM %s\nLABEL com.docker.compose.project="" com.docker.compose.service=""\n' \
                "$(docker inspect -f '{{.Config.Image}}' lesson-web-1)" |
            docker build --quiet --tag "$IMAGE" - &&
            python -m stack down
    } >lesson/begin.log 2>&1 || {
        cat lesson/begin.log
        return 1
    }
fi
