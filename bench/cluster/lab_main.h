// `shoal lab`: the lab for tests and for people. Commands come as lines of JSON on standard input,
// each is answered by one line on standard output; at the end of the input everything is gone.
#pragma once

namespace shoal {

// shoal lab [--places N] [--mbit N] [--loopback] [--dir D]. Exit status 77: not possible here
// (not root, no namespaces), with the reason on stderr.
int lab_main(int argc, char** argv);

}  // namespace shoal
