// The client's header as a C++ program sees it: it compiles, zero is spelled {}, and what it links
// to has C names.
#include <cstdio>

#include "faserve.h"

int main()
{
    fas_request request{};
    request.tensors[FAS_Q].data = nullptr;
    fas_connect_options options{};
    options.url = "ipc:///nonexistent/faserved.sock";
    fas_client *client = nullptr;
    fas_error error{};
    fas_status status = fas_connect(&options, &client, &error);
    std::printf("%s %s: %s\n", fas_version(), fas_status_name(status), error.text);
    return status == FAS_UNAVAILABLE && client == nullptr && request.batch == 0 ? 0 : 1;
}
